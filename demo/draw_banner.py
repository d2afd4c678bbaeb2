"""Draws the pack's icon and banner with the demo model: `python demo/draw_banner.py` (needs ComfyUI, as dev.py has it).

A cigarette becomes a lollipop as the shipped example delta is applied more and more strongly. Writes icon.png and
banner.png into demo/pictures/.
"""

from __future__ import annotations

from pathlib import Path

from in_comfyui import load_world, pack
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
DELTA = HERE / "examples" / "erased_deltas" / "example_cigarette.safetensors"
PROMPT, SEED = "a drawing of a cigarette in the 3d style on a white background", 0
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def pictures() -> list[Image.Image]:
    """The prompt's picture (64 x 64) at every strength."""
    world = load_world()
    delta, apply_delta = pack("trce_ops.delta").load_delta(DELTA), pack("nodes.host.apply").apply_delta
    drawn = [world.draw(apply_delta(world.model, delta, strength), [PROMPT], SEED)[0] for strength in STRENGTHS]
    return [Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy()) for picture in drawn]


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


def main() -> None:
    steps = pictures()
    for name, image in (("icon", icon(steps[0], steps[-1])), ("banner", banner(steps))):
        path = HERE / "pictures" / f"{name}.png"
        image.quantize(256).save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
