"""Draws icon, banner and help pictures by the demo model: `python demo/draw_banner.py` (with COMFYUI_PATH set).

A cigarette becomes a lollipop as the shipped example delta is applied more and more strongly. Writes icon.png and
banner.png into demo/pictures/, strength.jpg and erase.jpg (the demo's picture, smaller) into nodes/web/docs/.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from in_comfyui import load_world, pack
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
DELTA = HERE / "examples" / "erased_deltas" / "example_cigarette.safetensors"
PROMPT, SEED = "a drawing of a cigarette in the 3d style on a white background", 0
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
HELP = HERE.parent / "nodes" / "web" / "docs"
EVERY_STRENGTH = (*STRENGTHS, 1.5, -1.0)


def pictures(strengths: Sequence[float], count: int) -> list[list[Image.Image]]:
    """At every strength, the prompt's first `count` pictures (64 x 64)."""
    world = load_world()
    delta, apply_delta = pack("trce_ops.delta").load_delta(DELTA), pack("nodes.host.apply").apply_delta
    drawn = [world.draw(apply_delta(world.model, delta, strength), [PROMPT] * count, SEED) for strength in strengths]
    return [[Image.fromarray((p * 255).round().byte().permute(1, 2, 0).numpy()) for p in column] for column in drawn]


def large(picture: Image.Image, size: int) -> Image.Image:
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def icon(before: Image.Image, after: Image.Image, size: int = 256) -> Image.Image:
    """Before above the diagonal, after below it."""
    mask = Image.new("L", (size, size), 0)
    ImageDraw.Draw(mask).polygon([(0, size), (size, 0), (size, size)], 255)
    image = Image.composite(large(after, size), large(before, size), mask)
    ImageDraw.Draw(image).line([(0, size), (size, 0)], "dimgray", 3)
    return image


def banner(steps: list[Image.Image], width: int = 1260, height: int = 540) -> Image.Image:
    sheet, size = Image.new("RGB", (width, height), "white"), 230
    gap = (width - len(steps) * size) // (len(steps) + 1)
    for i, picture in enumerate(steps):
        sheet.paste(large(picture, size), (gap + i * (size + gap), 70))
    pen = ImageDraw.Draw(sheet)
    pen.text((width // 2, 382), "comfyui-trce", "black", ImageFont.load_default(64), anchor="mm")
    line = "Type a concept, get a MODEL that no longer draws it."
    pen.text((width // 2, 460), line, "dimgray", ImageFont.load_default(32), anchor="mm")
    return sheet


def strength_sheet(columns: list[list[Image.Image]], size: int = 98) -> Image.Image:
    """A column for every strength, with its number above."""
    sheet = Image.new("RGB", (len(columns) * (size + 4), 24 + len(columns[0]) * (size + 4)), "white")
    pen = ImageDraw.Draw(sheet)
    for x, (strength, column) in enumerate(zip(EVERY_STRENGTH, columns, strict=True)):
        left = x * (size + 4) + 2
        pen.text((left + size // 2, 12), f"strength {strength:g}", "black", ImageFont.load_default(12), anchor="mm")
        for y, picture in enumerate(column):
            sheet.paste(large(picture, size), (left, 24 + y * (size + 4)))
    return sheet


def main() -> None:
    columns = pictures(EVERY_STRENGTH, count=2)
    steps = [column[0] for column in columns[: len(STRENGTHS)]]
    for name, image in (("icon", icon(steps[0], steps[-1])), ("banner", banner(steps))):
        image.quantize(128).save(HERE / "pictures" / f"{name}.png", optimize=True)
    strength_sheet(columns).save(HELP / "strength.jpg", quality=90)
    demo = Image.open(HERE / "before_after.png").convert("RGB")
    large_enough = demo.resize((600, round(600 * demo.height / demo.width)), Image.Resampling.LANCZOS)
    large_enough.save(HELP / "erase.jpg", quality=85)


if __name__ == "__main__":
    main()
