"""The weights of a MODEL that read its text, found by its family's row (families.py)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn

from .errors import HostError
from .families import Family, Reader, families_in_words, family_of
from .weights import ModelWeights, check_alone, check_numbers

PREFIX = "diffusion_model."
CONTEXT, POOLED, CLIP_ROWS, LLAMA = "context", "pooled", "clip", "llama"  # the kinds of text, each with its own map


@dataclass(frozen=True)
class Norm:
    """The RMSNorms before a reader, one for each equal part of the embedding, computed in float32 with their gains."""

    gains: tuple[Tensor, ...]  # (d / parts,) each
    eps: tuple[float | None, ...]

    def __call__(self, c: Tensor) -> Tensor:  # (..., d) -> (..., d) float32
        parts = c.float().chunk(len(self.gains), -1)
        normed = [nn.functional.rms_norm(x, g.shape, g, eps) for x, g, eps in zip(parts, self.gains, self.eps)]
        return torch.cat(normed, -1)

    @property
    def fingerprint(self) -> str:
        """Equal for norms that do the same."""
        digest = hashlib.sha256(str(self.eps).encode())
        for gain in self.gains:
            digest.update(gain.numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Stream:
    """The weights of a MODEL that read one kind of text."""

    width: int  # of the vectors it reads
    keys: tuple[str, ...]  # weights (out, width), or (out, more) whose first columns read the text
    norm: Norm | None = None  # that the vectors pass first
    layers: tuple[int, ...] = ()  # of the text encoder, one per key, if the model reads many


@dataclass(frozen=True)
class TextReaders:
    """The weights of a MODEL that read its text, by the kind of text: context, pooled, llama."""

    row: Family
    streams: Mapping[str, Stream]

    @property
    def family(self) -> str:
        return self.row.name

    @property
    def space(self) -> str:
        """Where the maps act: on the text encoder's embeddings, or after the norm that the model begins with."""
        return "post-norm" if any(stream.norm for stream in self.streams.values()) else "embedding"

    @property
    def keys(self) -> tuple[str, ...]:
        """The weights that read the sequence of embeddings. Raises HostError for a model without any."""
        if CONTEXT not in self.streams:
            raise HostError(
                f"The connected 'model' ({self.family}) has no weights of its own for the text's tokens; "
                "connect another one."
            )
        return self.streams[CONTEXT].keys


def find_text_readers(model) -> TextReaders:
    """The weights of MODEL that read its text. Raises HostError for an architecture that is not in families.py."""
    config, network = model.model.model_config, model.model.diffusion_model
    modules = _modules(model)
    row = family_of(config, modules)
    if row is None:
        raise HostError(
            f"The connected 'model' is a {type(config).__name__} ({type(model.model).__name__}), which TRCE cannot "
            f"erase in; connect a model of one of these families: {families_in_words()}."
        )
    streams = {kind: _stream(reader, modules, row, model) for kind, reader in row.readers.items()}
    if LLAMA in streams:
        streams[LLAMA] = replace(streams[LLAMA], layers=tuple(network.llama_layers))
    return TextReaders(row, streams)


def _modules(model) -> dict[str, Any]:
    """The modules of the diffusion model as it was loaded.

    Clones share them, and while one is loaded, another node's objects may stand in the place of some; then it is
    unloaded.
    """
    replaced = (original for name, original in model.object_patches_backup.items() if f"{name}.".startswith(PREFIX))
    if any(isinstance(original, nn.Module) for original in replaced):
        comfy.model_management.unload_all_models()
    return dict(model.model.diffusion_model.named_modules())


def _stream(reader: Reader, modules: Mapping[str, Any], row: Family, model) -> Stream:
    config, weights = type(model.model.model_config).__name__, ModelWeights(model)
    found = _matching(reader.modules, modules)[reader.pick]
    # Upscalers switch self-attention off on some levels, whose attn1 then reads the text too.
    for name in tuple(found):
        block, _, projection = name.rpartition(".attn2.")
        if block and getattr(modules[block], "disable_self_attn", False):
            found.append(f"{block}.attn1.{projection}")
    _check_whole(found, modules)
    for name in found:
        check_numbers(name, modules[name].weight)
        check_alone(f"{PREFIX}{name}", modules[name])
        path = f"{PREFIX}{name}."
        if other := [p for p in model.object_patches if path.startswith(f"{p}.") or p.startswith(path)]:
            raise HostError(
                f"Another node has put an object of its own in the place of {other[0]} of the connected 'model', and "
                "weights in it are not reached. Put that node after the erasure."
            )
    widths = {modules[name].weight.shape[1] - reader.tail for name in found}
    if len(widths) != 1:
        raise HostError(
            f"The connected 'model' is a {config}, but its layers differ from those of a {row.name} model; "
            "connect a model in its original layout."
        )
    norms = _matching(reader.norm, modules) if reader.norm else []
    gains = tuple(weights.patched(f"{PREFIX}{name}.weight").detach().float().cpu() for name in norms)
    norm = Norm(gains, tuple(modules[name].eps for name in norms)) if norms else None
    return Stream(widths.pop(), tuple(f"{PREFIX}{name}.weight" for name in found), norm)


def _check_whole(found: Collection[str], modules: Mapping[str, Any]) -> None:
    """Raises HostError for a cross-attention of a UNet that is read in part, as the rest alone would not erase."""
    if any(".attn2." in name for name in found):
        for block in (name for name in modules if name.endswith(".attn2")):
            lacking = [f"{block}.{part}" for part in ("to_k", "to_v") if f"{block}.{part}" not in found]
            if lacking and next(modules[block].children(), None) is not None:
                raise HostError(
                    f"The connected 'model' has no {PREFIX}{lacking[0]} of its own; another node holds these weights "
                    "in a form that is not reached. Load the model with another loader."
                )


def _matching(pattern: str, modules: Mapping[str, nn.Module]) -> list[str]:
    """The modules of that name with a weight. Raises HostError for one whose weight a loader holds in another way."""
    named = {name: module for name, module in modules.items() if re.fullmatch(pattern, name)}
    for name, module in named.items():
        inner = any(other.startswith(f"{name}.") for other in named)  # a container, whose parts are meant
        held = next(chain(module.parameters(), module.buffers()), None) is not None
        if held and not inner and not hasattr(module, "weight"):
            raise HostError(
                f"The connected 'model' holds {PREFIX}{name} as a {type(module).__name__} without a weight that this "
                "pack can read or patch; load the model in fp16, bf16, fp8 or as GGUF."
            )
    return [name for name, module in named.items() if hasattr(module, "weight")]
