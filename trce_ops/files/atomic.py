"""Writing files so that nobody ever sees half of one, and knowing one that has changed since."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

MAX_TEXT = 400  # characters
CHECKSUM = "sha256"  # its name in the metadata


def write_whole(path: str | os.PathLike, data: bytes) -> None:
    """Write beside `path`, then rename over it; on any failure or cancel nothing is left behind. Raises OSError."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _written(path.parent, data) as part:
        os.replace(part, path)


def write_numbered(folder: str | os.PathLike, name: str, number: int, data: bytes) -> str:
    """Write `<name>_<number>_.safetensors` in `folder`, or under the next number that is free; returns the name.

    No file is ever overwritten, also when others do the same at the same time. Raises OSError, and ValueError for a
    name that the system does not take; then nothing is left behind.
    """
    with _written(Path(folder), data) as part:
        while True:
            path = Path(folder, f"{name}_{number:05}_.safetensors")
            try:
                path.touch(exist_ok=False)  # ours from here on
            except FileExistsError:
                number += 1
                continue
            try:
                os.replace(part, path)
            except BaseException:  # a cancel too must leave no empty file
                path.unlink()
                raise
            return path.name


@contextmanager
def _written(folder: Path, data: bytes) -> Iterator[Path]:
    """The data in a file of its own, gone at the end unless it was renamed."""
    part = folder / f"{uuid4().hex}.part"
    try:
        part.write_bytes(data)
        yield part
    finally:
        part.unlink(missing_ok=True)


def brief(error: Exception) -> str:
    """What an error says, in one line that does not fill the screen, whatever it quotes from a file."""
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} [...]."


def checksum(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 of the text and of names, shapes and values of the tensors, whatever their order."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def save_checked(path: str | os.PathLike, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors that load_checked knows to be whole. Raises OSError."""
    write_whole(path, save(dict(tensors), {CHECKSUM: checksum(tensors)}))


def load_checked(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of save_checked. Raises OSError, SafetensorError, and ValueError when they have changed since."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        if (file.metadata() or {}).get(CHECKSUM) != checksum(tensors):
            raise ValueError("it is damaged")
    with suppress(OSError):  # the time of its last use, where that can be noted
        os.utime(path)
    return tensors
