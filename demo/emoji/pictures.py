"""The pictures: every concept as four designers draw it, and how a training picture is made of one drawing.

A drawing is RGBA, cropped to its own extent and fitted to 64 x 64, so that no designer is told by the margins.
A picture is a drawing, moved a little, over one of six plain backgrounds.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import RUNS, save_grid, save_tensors
from fetch import fetch_all
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from world import BACKGROUNDS, SIZE, STYLES, concepts

DRAWINGS = RUNS / "drawings.safetensors"


def fit(image: Image.Image) -> Tensor:
    """RGBA with premultiplied colour as uint8 (4, SIZE, SIZE): cropped to what is drawn, centred in a square."""
    values = torch.from_numpy(np.asarray(image.convert("RGBA"), np.float32) / 255).permute(2, 0, 1)
    values[:3] *= values[3:]
    rows, columns = torch.where(values[3] > 0.05)
    values = values[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = values.shape[1:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    values = F.pad(values, (left, side - width - left, top, side - height - top))
    values = F.interpolate(values[None], size=(SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False)[0]
    return (values.clamp(0, 1) * 255).round().byte()


def file_of(folder: Path, code: str, suffix: str) -> Image.Image | None:
    """The set's picture of a code point; sets name files with or without the variation selector and leading zeros."""
    for name in (code, f"{code}-fe0f", code.zfill(4)):
        path = folder / f"{name}.{suffix}"
        if path.exists():
            return Image.open(path)
    return None


@cache
def _icon_set(folder: Path) -> tuple[dict, dict]:
    return json.loads((folder / "icons.json").read_text()), json.loads((folder / "chars.json").read_text())


def icon(folder: Path, code: str) -> Image.Image | None:
    """The picture of a code point from an Iconify set (SVG bodies in one JSON file), at twice SIZE."""
    import resvg_py  # needed only where drawings.safetensors is not there yet

    icons, names = _icon_set(folder)
    name = names.get(code) or names.get(f"{code}-fe0f")
    if name is None:
        return None
    entry = icons["icons"].get(name) or icons["icons"][icons["aliases"][name]["parent"]]
    width, height = (entry.get(side, icons.get(side, 16)) for side in ("width", "height"))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{2 * SIZE}" height="{2 * SIZE}">'
        f"{entry['body'].replace('currentColor', '#000')}</svg>"
    )
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg))))


def drawings_of(code: str) -> list[Image.Image | None]:
    """One code point in every style, None where the set lacks it."""
    sets = fetch_all()
    return [
        file_of(sets["noto"] / "img/google/64", code, "png"),
        file_of(sets["twemoji"] / "img/twitter/64", code, "png"),
        file_of(sets["3d"] / "assets", code, "webp"),
        icon(sets["line_art"], code),
    ]


def other_codes() -> Iterator[str]:
    """Code points that are none of the concepts: no people, flags or sequences."""
    mine = {concept.code for concept in concepts()}
    for path in sorted((fetch_all()["noto"] / "img/google/64").glob("*.png")):
        code = path.stem.removesuffix("-fe0f").lstrip("0")
        if "-" not in code and len(code) >= 4 and code not in mine:
            yield code


@cache
def drawings() -> Tensor:
    """uint8 (concepts, styles, 4, SIZE, SIZE), premultiplied; made once and kept in RUNS.

    Raises ValueError when a set lacks a concept.
    """
    if not DRAWINGS.exists():
        rows = []
        for concept in concepts():
            images = drawings_of(concept.code)
            if missing := [style for style, image in zip(STYLES, images, strict=True) if image is None]:
                raise ValueError(f"{concept.name} ({concept.code}) is missing in: {', '.join(missing)}")
            rows.append(torch.stack([fit(image) for image in images]))
        save_tensors({"drawings": torch.stack(rows)}, DRAWINGS)
    return load_file(DRAWINGS)["drawings"]


def render(rgba: Tensor, background: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (n, 3, SIZE, SIZE) in [0, 1] from drawings uint8 (n, 4, SIZE, SIZE) and background indices (n,).

    Each drawing is scaled to 0.82 to 0.98, turned by at most 7 degrees, shifted within the frame, flipped in 3 of 10.
    """
    count = len(rgba)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    zoom = 1 / uniform(0.82, 0.98)
    angle = uniform(-math.radians(7), math.radians(7))
    flip = torch.where(torch.rand(count, generator=generator) < 0.3, -1.0, 1.0)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    room = zoom - 1
    across = torch.stack([cos * flip, -sin * flip, uniform(-1, 1) * room], 1)
    down = torch.stack([sin, cos, uniform(-1, 1) * room], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), [count, 4, SIZE, SIZE], align_corners=False)
    moved = F.grid_sample(rgba.float() / 255, grid, align_corners=False)
    plain = torch.tensor(list(BACKGROUNDS.values()))[background][:, :, None, None]
    return (moved[:, :3] + (1 - moved[:, 3:]) * plain).clamp(0, 1)


def random_batch(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random pictures (count, 3, SIZE, SIZE) with their concept, style and background indices (count,)."""
    sizes = (len(concepts()), len(STYLES), len(BACKGROUNDS))
    concept, style, background = (torch.randint(size, (count,), generator=generator) for size in sizes)
    return render(drawings()[concept, style], background, generator), concept, style, background


if __name__ == "__main__":
    count = len(concepts())
    each = torch.arange(count).repeat_interleave(len(STYLES))
    style = torch.arange(len(STYLES)).repeat(count)
    generator = torch.Generator().manual_seed(0)
    background = torch.randint(len(BACKGROUNDS), (len(each),), generator=generator)
    save_grid(render(drawings()[each, style], background, generator), RUNS / "look" / "pictures.png", 24, 1)
