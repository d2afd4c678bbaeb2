"""How well the demo model draws what it is told: `python demo/evaluate.py [--images 480] [--sheet FILE]`.

Prints, for each kind of words, how often the judge recognises the shape, colour, style and background that the
prompt asks for; then the embedding-swap table, which shows in which tokens the picture is decided.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from captions import COLOURS, SHAPES, STYLES, evaluation_captions
from PIL import Image
from text_encoder import EOT, tokenize
from torch import Tensor
from world import World, load_world

ROWS = (("explicit", False), ("explicit", True), ("synonym", True), ("implicit", False), ("implicit", True))


def table(world: World, images: int) -> None:
    print(f"| what is named | words | images | recognised | soft | colour | style | background |\n|{'---|' * 8}")
    for names, field in ((SHAPES, "shape"), (COLOURS, "colour"), (STYLES, "style")):
        for kind, held in ROWS if field == "shape" else ROWS[2:]:
            generator = torch.Generator().manual_seed(11)
            texts, said = [], []
            for thing in names:
                text, attributes = evaluation_captions(thing, kind, images // len(names), generator, held=held)
                texts += text
                said.append(attributes)
            wanted = {f: torch.cat([getattr(a, f) for a in said]) for f in ("shape", "colour", "style", "background")}
            verdict = world.look(world.draw(world.model, texts, seed=12))
            right = {f: (getattr(verdict, f).argmax(1) == wanted[f]).float().mean() for f in wanted}
            soft = getattr(verdict, field).gather(1, wanted[field][:, None]).mean()
            print(
                f"| {field} | {kind}{', held out' if held else ''} | {len(texts)} | {right[field]:.1%} | {soft:.1%} "
                f"| {right['colour']:.1%} | {right['style']:.1%} | {right['background']:.1%} |",
                flush=True,
            )


def swap_table(world: World, shape: str, other: str, images: int) -> None:
    """What is drawn when some tokens' embeddings of a shape's prompts are replaced by the other shape's."""
    generator = torch.Generator().manual_seed(13)
    texts, _ = evaluation_captions(shape, "explicit", images, generator)
    swapped = [text.replace(shape, other) for text in texts]
    ids = tokenize(texts)
    a, b = world.encode(texts), world.encode(swapped)
    (word,) = tokenize([shape])[0, 1:2].tolist()
    eot = ids == EOT
    first = eot & (eot.cumsum(1) == 1)
    roles = {
        "nothing": eot & ~eot,
        "keyword": ids == word,
        "first EoT": first,
        "pads": eot & ~first,
        "all EoTs": eot,
        "keyword and all EoTs": eot | (ids == word),
        "everything": eot | ~eot,
    }
    print(f"\n| taken from the {other} prompt | images | {shape} | {other} |\n|---|---|---|---|")
    for role, mask in roles.items():
        verdict = world.look(world.draw(world.model, torch.where(mask[..., None], b, a), seed=14))
        rates = [verdict.recognised(thing).float().mean() for thing in (shape, other)]
        print(f"| {role} | {images} | {rates[0]:.1%} | {rates[1]:.1%} |", flush=True)


def contact_sheet(world: World, path: Path) -> None:
    """64 samples: every shape in every style, and some more, captions drawn at random from the explicit ones."""
    generator = torch.Generator().manual_seed(15)
    texts = [evaluation_captions(SHAPES[i % 8], "explicit", 1, generator)[0][0] for i in range(64)]
    save_sheet(world.draw(world.model, texts, seed=16), path)


def save_sheet(pictures: Tensor, path: Path, columns: int = 8, scale: int = 2) -> None:  # (n, 3, 64, 64)
    rows = pictures.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    image = Image.fromarray((rows * 255).round().byte().numpy())
    image.resize((image.width * scale, image.height * scale), Image.Resampling.LANCZOS).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=480, help="behind every row of the table")
    parser.add_argument("--swap-images", type=int, default=96)
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet of 64 samples")
    options = parser.parse_args()
    world = load_world()
    if options.sheet:
        contact_sheet(world, options.sheet)
    table(world, options.images)
    for shape, other in (("star", "circle"), ("heart", "square")):
        swap_table(world, shape, other, options.swap_images)


if __name__ == "__main__":
    main()
