"""Which embeddings say what is drawn? `python dev.py bench swap [--images N]`

The test with which the TRCE paper argues for the end-of-text embeddings, on the unedited model: in prompts for a
concept, the embeddings of some tokens are replaced with those of the same prompt for its safe target. Prints how often
the judge sees the one and the other, over N prompts of every reported concept (the styles have no safe object).
"""

from __future__ import annotations

import argparse

import demo_world
import erasing
import torch
from captions import HELD_OUT_TEMPLATES
from in_comfyui import Encoded, World, pack
from torch import Tensor

SWAPS = {  # taken from the safe prompt -> token roles
    "nothing": (),
    "keyword": ("keyword",),
    "first EoT": ("first_eot",),
    "pads": ("pads",),
    "all EoTs": ("first_eot", "pads"),
    "keyword and all EoTs": ("keyword", "first_eot", "pads"),
}


def positions(source, target, roles: tuple[str, ...]) -> list[tuple]:
    """What takes the place of what, as the pack pairs tokens."""
    weights = {role: float(role in roles) for role in ("sot", "keyword", "first_eot", "pads")}
    pair = pack("trce_ops.text.embeddings").pair_positions
    return list(pair(source, target, pack("trce_ops.text.tokens").TokenWeights(**weights))) if roles else []


def swapped(world: World, template: str, thing: str, roles: tuple[str, ...]) -> Tensor:  # -> (1, 77, 768)
    """The template's embedding for the thing, with these roles from the template's for its safe target."""
    encoder = pack("nodes.host.encoders").ClipEncoder(world.clip)
    nouns = [erasing.phrase(name) for name in (thing, erasing.SAFE[thing])]
    texts = [template.format(noun) for noun in nouns]
    source, target = (encoder.locate(encoder.tokenize(text), noun) for text, noun in zip(texts, nouns, strict=True))
    z, safe = world.encode(texts).sequence.clone()
    for _, p, q, _ in positions(source, target, roles):
        z[p] = safe[q]
    return z[None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40, help="of every concept behind every figure")
    options = parser.parse_args()
    world = demo_world.load().world
    things = [thing for thing in erasing.CONCEPTS if not erasing.is_style(thing)]
    print(f"{options.images * len(things)} pictures a row: {', '.join(things)}\n")
    print("| taken from the safe prompt | concept | safe target |\n|---|---|---|")
    for name, roles in SWAPS.items():
        seen: dict[str, list[Tensor]] = {"concept": [], "safe": []}
        for thing in things:
            templates = [HELD_OUT_TEMPLATES[i % len(HELD_OUT_TEMPLATES)] for i in range(options.images)]
            context = Encoded(torch.cat([swapped(world, template, thing, roles) for template in templates]))
            verdict = world.look(world.draw(world.model, context, demo_world.SEED))
            for what, wanted in (("concept", thing), ("safe", erasing.SAFE[thing])):
                seen[what].append(verdict.recognised(wanted).float())
        print(f"| {name} | {' | '.join(f'{torch.cat(found).mean():.1%}' for found in seen.values())} |", flush=True)


if __name__ == "__main__":
    main()
