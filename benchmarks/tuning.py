"""Which tuning? `python dev.py bench tuning [--images N] [--concepts ...] [--variants ...] [--json FILE]`

Erases demo concepts by stage 1 alone and then with every variant of stage 2, each from the same stage 1, and prints how
often the judge still recognises the concept, by kind of prompt, beside the recognition of what must stay, and what the
tuning cost. Defaults were chosen on erasing.TUNING; report on erasing.CONCEPTS.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import time
from pathlib import Path

import demo_world
import erasing
import torch

RESOLUTION = 64
PAPER_LR = 1e-3  # the published 1e-6 changes nothing in the demo model
ALONE = "alone"  # without stage 1
VARIANTS = {  # name -> (preset, changes)
    "quick": ("QUICK", {}),
    "quick, goal 1.0": ("QUICK", {"goal": 1.0}),
    "quick, goal 1.5": ("QUICK", {"goal": 1.5}),
    "quick, goal 2.0": ("QUICK", {"goal": 2.0}),
    "quick, lambda 10": ("QUICK", {"preserve": 10.0}),
    "quick, lambda 1000": ("QUICK", {"preserve": 1000.0}),
    "quick, no preserve": ("QUICK", {"preserve": 0.0}),
    "quick, empty prompt kept only": ("QUICK", {"keep": False}),
    "quick, hinge, lambda 50": ("QUICK", {"loss": "hinge", "preserve": 50.0}),
    "quick, paper's projections": ("QUICK", {"projections": "paper"}),
    "quick, rank 8": ("QUICK", {"rank": 8}),
    "quick, full rank": ("QUICK", {"rank": 0}),
    "quick, all steps": ("QUICK", {"early": 1.0}),
    "quick, stage 2 alone": ("QUICK", {ALONE: True}),
    "paper": ("PAPER", {"learning_rate": PAPER_LR}),
    "paper, keep list, lambda 10": ("PAPER", {"learning_rate": PAPER_LR, "keep": True, "preserve": 10.0}),
    "paper, rank 4": ("PAPER", {"learning_rate": PAPER_LR, "rank": 4}),
    "paper, stage 2 alone": ("PAPER", {"learning_rate": PAPER_LR, ALONE: True}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=80, help="of every concept behind every figure")
    parser.add_argument("--concepts", nargs="+", default=list(erasing.TUNING))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    bench = demo_world.load()
    pack = bench.host.__package__.removesuffix(".nodes")
    stage2, tuning, denoiser = (
        importlib.import_module(f"{pack}.{name}") for name in ("trce_ops.stage2", "trce_ops.tuning", "nodes.denoiser")
    )
    encoder = bench.host.ClipEncoder(bench.world.clip)
    tunable = denoiser.tunable(bench.world.model, RESOLUTION)
    scores: dict[str, dict[str, dict[str, erasing.Score]]] = {}
    costs: dict[str, str] = {}
    for thing in options.concepts:
        wanted = erasing.prompts(thing, options.images, demo_world.SEED)
        context = bench.world.encode([prompt.text for prompt in wanted])

        def measure(name, model, thing=thing, wanted=wanted, context=context):
            found = erasing.score(bench.world, model, wanted, context, demo_world.SEED)
            scores.setdefault(name, {})[thing] = found
            print(thing, name, {label: f"{score.hard:.0%}" for label, score in found.items()}, flush=True)

        measure("no edit", bench.world.model)
        stage1, delta, _ = bench.erase(thing, bench.trce_erase.EraseSettings())
        measure("stage 1", stage1)
        nothing = torch.zeros(delta.context_map.width, 0)
        no_map = dataclasses.replace(delta.context_map, factors=(nothing, nothing.mT.contiguous()))
        for name in options.variants:
            preset, changes = VARIANTS[name]
            alone = changes.get(ALONE, False)
            changes = {key: value for key, value in changes.items() if key != ALONE}
            settings = dataclasses.replace(getattr(tuning, preset), resolution=RESOLUTION, **changes)
            start = dataclasses.replace(delta, context_map=no_map) if alone else delta
            began = time.perf_counter()
            tuned, report = stage2.tune_delta(start, encoder, tunable, settings)
            t = report.tuning
            costs[name] = (
                f"{time.perf_counter() - began:.0f} s, {t.data_evaluations} + {t.train_evaluations}, "
                f"place {t.positions[-1]:.2f}, change {t.changes[-1]:.1%}"
            )
            measure(name, bench.host.apply_delta(bench.world.model, tuned, 1.0))

    labels = [*erasing.KINDS, "kept", "kept_implicit"]
    images = options.images * len(options.concepts)
    print(f"\nmean over {', '.join(options.concepts)}; hard / soft; {images} pictures behind each figure;")
    print("cost of the last concept: time, UNet evaluations (data + training), place and change at the last step\n")
    print(f"| | {' | '.join(labels)} | cost |\n|{'---|' * (len(labels) + 2)}")
    for name, by_thing in scores.items():
        cells = []
        for label in labels:
            hard = sum(s[label].hard for s in by_thing.values()) / len(by_thing)
            soft = sum(s[label].soft for s in by_thing.values()) / len(by_thing)
            cells.append(f"{hard:.1%} / {soft:.1%}")
        print(f"| {name} | {' | '.join(cells)} | {costs.get(name, '')} |")
    if options.json:
        options.json.write_text(json.dumps(scores, indent=1, default=dataclasses.asdict) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
