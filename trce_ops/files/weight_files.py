"""Reads published weight files: safetensors only, checked before use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .atomic import brief

MAX_HEADER = 1 << 24  # bytes; fifty times the header of a whole SDXL UNet
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
SUFFIXES = (".safetensors", ".sft")
FLOATS = ("F64", "F32", "F16", "BF16")


class WeightFileError(ValueError):
    """A file of weights that cannot be used."""

    @classmethod
    def unreadable(cls, error: Exception) -> WeightFileError:
        return cls(f"it cannot be read as a safetensors file; save or download it again ({brief(error)}).")


class WeightFile:
    """An open file: the shapes of all tensors, and access to one tensor at a time."""

    def __init__(self, file):
        self._file = file
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name in file.keys():
            part = file.get_slice(name)
            if part.get_dtype() not in FLOATS:
                raise WeightFileError(
                    f"its tensor {name[:200]!r} is of type {part.get_dtype()}; {', '.join(FLOATS)} are accepted. "
                    "Convert the file to one of these types."
                )
            self.shapes[name] = tuple(part.get_shape())

    def tensor(self, name: str) -> Tensor:
        """One tensor. Raises WeightFileError when it cannot be read, and on NaN or Inf."""
        try:
            tensor = self._file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise WeightFileError.unreadable(error) from None
        if not torch.isfinite(tensor).all():
            raise WeightFileError(f"its tensor {name[:200]!r} holds NaN or Inf; get the file again.")
        return tensor


@contextmanager
def open_weights(path: str | os.PathLike) -> Iterator[WeightFile]:
    """Open a file of weights. A WeightFileError raised inside the `with` names the file; other errors pass unchanged.

    Refuses pickles (whatever their suffix, because opening one can run code), headers of absurd size, tensors that are
    not floating point, and everything else that is not a safetensors file.
    """
    path = Path(path)
    try:
        with ExitStack() as stack:
            try:
                _check_head(path)
                file = WeightFile(stack.enter_context(safe_open(path, framework="pt")))
            except (SafetensorError, OSError) as error:
                raise WeightFileError.unreadable(error) from None
            yield file
    except WeightFileError as error:
        raise WeightFileError(f"'{path.name}' cannot be used: {brief(error)}") from None


def _check_head(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(PICKLES) or path.suffix.lower() not in SUFFIXES:
        raise WeightFileError(
            "it is not a safetensors file but looks like a pickle (.pt, .ckpt, .bin), which can run code when it is "
            "opened; convert it to safetensors, or choose a file that is."
        )
    header = int.from_bytes(head, "little")
    if MAX_HEADER < header <= path.stat().st_size:
        raise WeightFileError(f"its header has {header} bytes, more than the {MAX_HEADER} that are accepted.")


def match(
    shapes: Mapping[str, tuple[int, ...]],
    names: Mapping[str, str],  # spelling in a file -> parameter of the model
    model: Mapping[str, tuple[int, ...]],  # shapes of the model's parameters
) -> dict[str, str]:
    """Match every tensor of the file to a parameter. Raises WeightFileError if one has no match or the wrong shape."""
    found = {name: names[name] for name in shapes if name in names}
    if not found:
        example = min(shapes, default="")[:200]
        raise WeightFileError(
            f"it has nothing in common with the model (it holds {len(shapes)} tensors, such as "
            f"{example!r}); choose the weights of a diffusion model in diffusers' or ComfyUI's spelling."
        )
    for name, key in found.items():
        if shapes[name] != model[key]:
            raise WeightFileError(
                f"its tensor {name} has shape {shapes[name]}, where the model has {model[key]}; use a model of the "
                "family that the file was made for."
            )
    if unknown := sorted(shapes.keys() - found.keys()):
        raise WeightFileError(
            f"{len(unknown)} of its {len(shapes)} tensors, such as {unknown[0][:200]!r}, are not in the model; use a "
            "model of the family that the file was made for."
        )
    return found


def difference(edited: Tensor, base: Tensor) -> Tensor | None:
    """edited - base in float32, or None if they differ by no more than the rounding of the coarser type."""
    if edited.dtype == base.dtype:
        same = torch.equal(edited, base)
    else:
        eps, tiny = (max(getattr(torch.finfo(W.dtype), of) for W in (edited, base)) for of in ("eps", "tiny"))
        close = torch.isclose(edited.double(), base.double(), rtol=eps, atol=tiny)
        same = bool(close.all())
    return None if same else (edited.double() - base.double()).float()


def differences(
    file: WeightFile, found: Mapping[str, str], base: Callable[[str], Tensor], progress: Callable[[int, int], None]
) -> Iterator[tuple[str, Tensor]]:
    """(parameter, dW float32) for every tensor of the file that differs from the model's."""
    for done, (name, key) in enumerate(found.items()):
        progress(done, len(found))
        dW = difference(file.tensor(name), base(key).cpu())
        if dW is not None:
            yield key, dW
    progress(len(found), len(found))
