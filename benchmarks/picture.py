"""What the methods draw, side by side: a row for each prompt, a column for each method, the same noise in every row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cases
import demo_world
import erasing
from erasing import Prompt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SHOWN = {
    "explicit": 1,
    "synonym": 1,
    "described_heldout": 2,
    "kept_neighbours": 1,
    "kept": 1,
    "kept_described": 1,
}  # the first of each label
SIZE, GAP, CAPTION, HEAD = 112, 6, 22, 26  # pixels


def shown(prompts: Sequence[Prompt]) -> list[Prompt]:
    return [p for label, n in SHOWN.items() for p in [p for p in prompts if p.label == label][:n]]


def draw(world_name: str, methods: Sequence[str], thing: str, path: Path, unedited: str) -> None:
    """Erase the thing by every method and save what each draws, the unedited model's first. No picture is chosen."""
    bench = cases.bench(world_name)
    world = bench.world
    prompts = shown(erasing.prompts(thing, max(SHOWN.values()), demo_world.SEED))
    context = world.encode([prompt.text for prompt in prompts])
    columns = [(unedited, world.draw(world.model, context, demo_world.SEED))]
    for method in methods:
        model, _ = cases.erase(bench, method, (thing,))
        columns.append((method, world.draw(model, context, demo_world.SEED)))
    sheet([f"{prompt.label.replace('_', ' ')}: {prompt.text}" for prompt in prompts], columns).save(path)


def sheet(rows: Sequence[str], columns: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """rows: captions; columns: titles and pictures (n, 3, h, w) in [0, 1], one for each row."""
    height = CAPTION + SIZE + GAP
    image = Image.new("RGB", (GAP + len(columns) * (SIZE + GAP), HEAD + len(rows) * height), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    for row, text in enumerate(rows):
        pen.text((GAP, HEAD + row * height + 4), text, "dimgray", font)
    for column, (title, pictures) in enumerate(columns):
        left = GAP + column * (SIZE + GAP)
        pen.text(
            (left, 8), title.removeprefix("trce-") if len(title) > 18 else title, "black", ImageFont.load_default(11)
        )
        for row, picture in enumerate(pictures):
            pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
            drawn = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
            image.paste(drawn, (left, HEAD + row * height + CAPTION))
    return image
