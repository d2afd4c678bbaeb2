"""Pictures before and after, side by side and labelled, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP, LABEL, HEAD = 6, 20, 24  # pixels


def _thumbnail(picture: Tensor, size: int) -> Image.Image:  # (h, w, 3) in [0, 1]
    image = Image.fromarray((picture[..., :3].clamp(0, 1) * 255).round().byte().cpu().numpy())
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def draw_sheet(rows: Sequence[tuple[str, Sequence[tuple[Tensor, Tensor]]]], size: int) -> Tensor:  # (1, H, W, 3)
    """A row for each (label, pairs of pictures (h, w, 3) before and after); `size`: longer side of each, in pixels."""
    cells = [(label, [[_thumbnail(p, size) for p in pair] for pair in pairs]) for label, pairs in rows]
    width, height = cells[0][1][0][0].size
    pair_width = 2 * width + GAP // 2
    columns = max(len(pairs) for _, pairs in cells)
    total = GAP + columns * (pair_width + 2 * GAP)
    sheet = Image.new("RGB", (total, HEAD + len(cells) * (LABEL + height + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    letters = max(8, total // 7)
    for column in range(columns):
        left = GAP + column * (pair_width + 2 * GAP)
        pen.text((left, 6), "before", "black", font)
        pen.text((left + width + GAP // 2, 6), "after", "black", font)
    for row, (label, pairs) in enumerate(cells):
        top = HEAD + row * (LABEL + height + GAP)
        pen.text((GAP, top + 3), shorten(label, letters, placeholder="..."), "dimgray", font)
        for column, pair in enumerate(pairs):
            left = GAP + column * (pair_width + 2 * GAP)
            for side, picture in enumerate(pair):
                sheet.paste(picture, (left + side * (width + GAP // 2), top + LABEL))
    return torch.from_numpy(np.array(sheet)).float()[None] / 255
