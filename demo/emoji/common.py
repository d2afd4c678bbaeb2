"""Folders and small helpers that every stage of the emoji world shares."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
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


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def save_grid(pictures: Tensor, path: Path, columns: int = 12, zoom: int = 2) -> None:
    """Writes pictures (n, 3, h, w) in [0, 1] as one PNG, row by row."""
    count, _, height, width = pictures.shape
    rows = -(-count // columns)
    pictures = torch.cat([pictures, pictures.new_ones(rows * columns - count, 3, height, width)])
    sheet = pictures.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, 3)
    image = Image.fromarray((sheet.clamp(0, 1) * 255).round().byte().numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.LANCZOS).save(path)
