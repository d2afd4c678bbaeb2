"""Which tokens must be moved? `python dev.py bench token_weights [--images N] [--json FILE]`

Erases every demo concept (six objects and two styles) once for each choice of token weights, with everything
else at the defaults of TRCE Erase, and prints how often the judge still recognises the concept in the erased model's
pictures, by kind of prompt, beside the recognition of what must stay. Each figure is over N pictures of every concept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import demo_world
import erasing
from in_comfyui import pack

WEIGHTINGS = {  # (sot, keyword, first_eot, pads)
    "SoT": (1, 0, 0, 0),
    "keyword": (0, 1, 0, 0),
    "first EoT": (0, 0, 1, 0),
    "pads": (0, 0, 0, 1),
    "keyword and first EoT": (0, 1, 1, 0),
    "all EoTs": (0, 0, 1, 1),
    "all": (1, 1, 1, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=80, help="of every concept behind every figure")
    parser.add_argument("--concepts", nargs="+", default=list(erasing.CONCEPTS))
    parser.add_argument("--weightings", nargs="+", default=list(WEIGHTINGS))
    parser.add_argument("--preserve", type=float)
    parser.add_argument("--ridge", type=float)
    parser.add_argument("--no-metric", dest="metric", action="store_false", help="all directions alike")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    bench = demo_world.load()
    settings = pack("trce_ops.closed_form.erase").EraseSettings(metric=options.metric)
    for name in ("preserve", "ridge"):
        if (value := getattr(options, name)) is not None:
            settings = dataclasses.replace(settings, **{name: value})
    scores: dict[str, dict[str, dict[str, erasing.Score]]] = {}
    for thing in options.concepts:
        wanted = erasing.prompts(thing, options.images, demo_world.SEED)
        context = bench.world.encode([prompt.text for prompt in wanted])

        def measure(model, wanted=wanted, context=context):
            return erasing.score(bench.world, model, wanted, context, demo_world.SEED)

        scores.setdefault("no edit", {})[thing] = measure(bench.world.model)
        for name in options.weightings:
            weights = pack("trce_ops.text.tokens").TokenWeights(*WEIGHTINGS[name])
            model, _, report = bench.erase(thing, dataclasses.replace(settings, weights=weights))
            scores.setdefault(name, {})[thing] = measure(model)
            print(thing, name, {k: f"{v.hard:.0%}" for k, v in scores[name][thing].items()}, flush=True)

    labels = erasing.LABELS
    images = options.images * len(options.concepts)
    print(f"\nmean over {', '.join(options.concepts)}; hard / soft; {images} pictures behind each figure\n")
    print(f"| moved | {' | '.join(labels)} |\n|{'---|' * (len(labels) + 1)}")
    for name, by_thing in scores.items():
        cells = []
        for label in labels:
            found = [scores[label] for scores in by_thing.values() if label in scores]  # a style has no synonyms
            shares = [sum(getattr(s, kind) for s in found) / len(found) for kind in ("hard", "soft") if found]
            cells.append(" / ".join(f"{share:.1%}" for share in shares))
        print(f"| {name} | {' | '.join(cells)} |")
    if options.json:
        options.json.write_text(json.dumps(scores, indent=1, default=dataclasses.asdict) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
