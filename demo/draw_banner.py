"""Draws the pack's icon and banner from the demo world's shapes: `python demo/draw_banner.py`.

A star becomes a circle, by way of the shapes between their distance fields. Writes icon.png and banner.png into
demo/pictures/.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from drawing import BACKGROUND_RGB, COLOUR_RGB, COLOURS, FIELD_SPAN, SHAPES, _fields
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PICTURES = Path(__file__).parent / "pictures"
NIGHT, YELLOW, BLUE = BACKGROUND_RGB[2], COLOUR_RGB[COLOURS.index("yellow")], COLOUR_RGB[COLOURS.index("blue")]


def shape(along: float, size: int) -> Tensor:
    """How much of each pixel (size, size) the shape covers that lies `along` the way from the star to the circle."""
    star, circle = (_fields()[SHAPES.index(name)] for name in ("star", "circle"))
    line = ((torch.arange(size) + 0.5) / size * 2 - 1) * 1.2 / FIELD_SPAN
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    field = (1 - along) * star + along * circle
    distance = F.grid_sample(field[None, None], grid[None], mode="bicubic", align_corners=False)[0, 0]
    return (0.5 - distance * size / 2.4).clamp(0, 1)


def picture(along: float, size: int) -> Image.Image:
    """The shape on the demo world's black, yellow as a star and blue as a circle."""
    cover = shape(along, size)[..., None]
    colour = (1 - along) * YELLOW + along * BLUE
    pixels = cover * colour + (1 - cover) * NIGHT
    return Image.fromarray((pixels * 255).round().byte().numpy())


def icon(size: int = 256) -> Image.Image:
    """The star's outline, and the circle that is drawn in its place."""
    image = picture(1.0, size)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(size, size, 3).float() / 255
    cover = shape(0.0, size)
    edge = (cover - F.avg_pool2d(cover[None, None], 9, 1, 4)[0, 0]).clamp(0, 1).mul(2).clamp(0, 1)[..., None]
    return Image.fromarray(((edge * YELLOW + (1 - edge) * pixels) * 255).round().byte().numpy())


def banner(width: int = 1260, height: int = 540) -> Image.Image:
    night = tuple(int(v) for v in (NIGHT * 255).round())
    sheet = Image.new("RGB", (width, height), night)
    size, steps = 220, 5
    gap = (width - steps * size) // (steps + 1)
    for i in range(steps):
        sheet.paste(picture(i / (steps - 1), size), (gap + i * (size + gap), 70))
    pen = ImageDraw.Draw(sheet)
    pen.text((width // 2, 372), "comfyui-trce", "white", ImageFont.load_default(64), anchor="mm")
    line = "Type a concept, get a MODEL that no longer draws it."
    pen.text((width // 2, 450), line, "lightgray", ImageFont.load_default(32), anchor="mm")
    return sheet


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for name, image in (("icon", icon()), ("banner", banner())):
        image.quantize(64).save(PICTURES / f"{name}.png", optimize=True)
        print(f"demo/pictures/{name}.png: {(PICTURES / f'{name}.png').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
