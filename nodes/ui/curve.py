"""Plot of a tuning's curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...trce_ops.tuning.train import Tuning

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 60, 60, 30, 30  # margins
COLOURS = ("#3465a4", "#cc5500")  # readable on white, and distinguishable for colour-blind people


def show_tuning(tuning: Tuning, node: type[io.ComfyNode]) -> dict:
    """A preview of the tuning's curves on the node; nothing if there was no step."""
    if not tuning.losses:
        return {}
    picture = draw_curves({"loss": tuning.losses, "position (1 = safe target)": tuning.positions})
    # Not ui.PreviewImage, which draws its file name from the global random numbers.
    files = ui.ImageSaveHelper.save_images(picture, "trce_tuning", io.FolderType.temp, node, compress_level=1)
    return {"images": files, "animated": (False,)}


def draw_curves(curves: dict[str, Sequence[float]]) -> Tensor:  # (1, HEIGHT, WIDTH, 3) in [0, 1]
    """Two curves over the steps, the first with its scale on the left, the second on the right."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(13)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    pen.line([(LEFT, TOP), (LEFT, bottom), (right, bottom), (right, TOP)], "gray")
    for side, ((name, values), colour) in enumerate(zip(curves.items(), COLOURS)):
        low, high = min(values), max(values)
        span = high - low or 1.0
        last = max(1, len(values) - 1)
        points = [
            (LEFT + (right - LEFT) * i / last, bottom - (bottom - TOP) * (value - low) / span)
            for i, value in enumerate(values)
        ]
        pen.line(points if len(points) > 1 else [points[0], (right, points[0][1])], colour, 2)
        x, anchor = ((LEFT - 4, "r"), (right + 4, "l"))[side]
        pen.text((x, TOP), f"{high:.3g}", colour, font, anchor + "m")
        pen.text((x, bottom), f"{low:.3g}", colour, font, anchor + "m")
        pen.text(((LEFT, right)[side], TOP / 2), name, colour, font, "lr"[side] + "m")
    pen.text((WIDTH / 2, HEIGHT - BOTTOM / 2), f"step 1 to {len(values)}", "gray", font, "mm")
    return torch.from_numpy(np.array(picture)).float()[None] / 255
