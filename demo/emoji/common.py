"""Folders and small helpers that every stage of the emoji world shares."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).parent
RUNS = HERE.parent / "runs" / "emoji"  # caches and training states, ignored by git
WEIGHTS = HERE / "weights"  # what ships


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file beside `path`, then renames: a reader finds the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, beside, metadata)
    os.replace(beside, path)
