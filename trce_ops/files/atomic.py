"""Atomic writes and checksummed reads."""

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
    """Write a file next to `path`, then rename it over `path`. A failure or cancel leaves no file. Raises OSError."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _written(path.parent, data) as part:
        os.replace(part, path)


def write_numbered(folder: str | os.PathLike, name: str, number: int, data: bytes) -> str:
    """Write `<name>_<number>_.safetensors` in `folder`, with the next free number; returns the name.

    Never overwrites a file, even if several processes write at the same time. Raises OSError, and ValueError for a name
    that the operating system rejects; then no file is left.
    """
    with _written(Path(folder), data) as part:
        while True:
            path = Path(folder, f"{name}_{number:05}_.safetensors")
            try:
                path.touch(exist_ok=False)  # reserves the name
            except FileExistsError:
                number += 1
                continue
            try:
                os.replace(part, path)
            except BaseException:  # a cancel, too, must leave no empty file
                path.unlink()
                raise
            return path.name


@contextmanager
def _written(folder: Path, data: bytes) -> Iterator[Path]:
    """A temporary file with the data, which is removed at the end unless it was renamed."""
    part = folder / f"{uuid4().hex}.part"
    try:
        part.write_bytes(data)
        yield part
    finally:
        part.unlink(missing_ok=True)


def brief(error: Exception) -> str:
    """The message of an error in one short line, whatever it quotes from a file."""
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} [...]."


def checksum(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 of the text and of the tensors' names, shapes and values, independent of their order."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_checked(path: str | os.PathLike, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors with a checksum for load_checked. Raises OSError."""
    write_whole(path, save(dict(tensors), {CHECKSUM: checksum(tensors)}))


def load_checked(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read tensors that save_checked wrote, and set the file's time to now, as that of its last use.

    Raises OSError, SafetensorError, and ValueError when the checksum differs.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        if (file.metadata() or {}).get(CHECKSUM) != checksum(tensors):
            raise ValueError("its checksum does not match")
    with suppress(OSError):  # a read-only folder
        os.utime(path)
    return tensors
