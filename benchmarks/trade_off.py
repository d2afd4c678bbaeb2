"""What an attack brings back against what is kept, a dot for every method: `bench erasure ... --trade-off FILE.png`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import variants
from PIL import Image, ImageDraw, ImageFont

KEPT = ("kept_neighbours", "kept", "kept_described")
WIDTH, HEIGHT, LINE = 1050, 420, 18  # pixels
LEFT, TOP, SIDE = 60, 20, 340  # the square of the plot
DOT = 5


def dots(runs: Sequence[dict], attack: str, unedited: str) -> dict[str, tuple[float, float]]:
    """By method: the rate after the attack, and the kept prompts that are still drawn as a share of the unedited
    model's. Over all pictures of all runs of the method."""
    found, before = {}, 0.0
    for method in dict.fromkeys(run["method"] for run in runs):
        rows = [row for run in runs if run["method"] == method for row in run["rows"]]
        attacked, kept = ([row for row in rows if row["label"] in labels] for labels in ((attack,), KEPT))
        if not attacked or not kept:
            continue
        left, before = (_rate(attacked, side) for side in ("after", "before"))
        found[variants.TITLES.get(method, method)] = left, _rate(kept, "after") / _rate(kept, "before")
    return {unedited: (before, 1.0), **found}


def _rate(rows: Sequence[dict], side: str) -> float:
    return sum(row["images"] * row[side] for row in rows) / sum(row["images"] for row in rows)


def draw(runs: Sequence[dict], attack: str, path: Path, unedited: str) -> None:
    """Save the dots as a picture. The best place is the upper left corner: nothing comes back, and all else stays."""
    found = dots(runs, attack, unedited)
    lowest = min(0.5, *(kept for _, kept in found.values()))
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for i in range(5):
        at = SIDE * i / 4
        pen.line([(LEFT + at, TOP), (LEFT + at, TOP + SIDE)], "gainsboro")
        pen.line([(LEFT, TOP + at), (LEFT + SIDE, TOP + at)], "gainsboro")
        pen.text((LEFT + at, TOP + SIDE + 6), f"{25 * i} %", "dimgray", font, "ma")
        pen.text((LEFT - 6, TOP + at), f"{1 - (1 - lowest) * i / 4:.0%}", "dimgray", font, "rm")
    name = attack.replace("_", " ")
    pen.text((LEFT + SIDE / 2, HEIGHT - 18), f"brought back by {name}", "black", font, "ms")
    pen.text((LEFT, TOP - 4), "kept, of what the unedited model draws", "black", font, "ls")
    for number, (title, (left, kept)) in enumerate(found.items()):
        x, y = LEFT + SIDE * left, TOP + SIDE * (1 - kept) / (1 - lowest)
        pen.ellipse([x - DOT, y - DOT, x + DOT, y + DOT], "black" if number else "white", "black")
        pen.text((x + DOT + 3, y), str(number), "black", font, "lm")
        line = f"{number}  {left:.0%}, {kept:.0%}: {title.replace('tuning.', '').replace(',', ', ')}"
        pen.text((LEFT + SIDE + 40, TOP + LINE * number), line, "black", font)
    image.save(path)
