"""Which tuning? `python dev.py bench tuning [--images N] [--concepts ...] [--variants ...] [--json FILE]`

Erases demo concepts by stage 1 alone and then by every variant of stage 2, each from the same stage 1, and prints how
often the judge still recognises the concept, by kind of prompt, beside the recognition of what must stay, how far the
pictures of kept prompts have moved, and what the tuning cost. Defaults were chosen on erasing.TUNING with other seeds;
erasing.CONCEPTS are what is reported. With --json the figures are written as they come and taken up again from there.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import demo_world
import erasing
import resume
import torch
from demo_world import RESOLUTION
from in_comfyui import pack

PAPER_LR = {"learning_rate": 1e-3}  # the published 1e-6 changes nothing in the demo model
ALONE = "alone"  # without stage 1
DEFECT = "defect"  # of the official code, switched on here only
VARIANTS = {  # name -> (preset, changes)
    "quick": ("QUICK", {}),
    "quick, stage 2 alone": ("QUICK", {ALONE: True}),
    "quick, nothing preserved": ("QUICK", {"preserve": 0.0}),
    "quick, empty prompt preserved only": ("QUICK", {"keep": False}),
    "quick, full rank": ("QUICK", {"rank": 0, "learning_rate": 6e-4}),
    "quick, all directions alike": ("WITHOUT_METRIC", {}),
    "quick, reach 0": ("QUICK", {"reach": 0.0}),
    "quick, cross-attention with queries": ("QUICK", {"projections": "cross"}),
    "quick, with self-attention": ("QUICK", {"projections": "wide"}),
    "quick, paper's projections": ("QUICK", {"projections": "paper"}),
    "quick, paper's hinge": ("QUICK", {"loss": "hinge", "preserve": 100.0}),
    "quick, unconditional prediction too": ("QUICK", {"unconditional": 0.5}),
    "paper": ("PAPER", PAPER_LR),
    "paper, published learning rate": ("PAPER", {}),
    "paper, stage 2 alone": ("PAPER", {**PAPER_LR, ALONE: True}),
    "paper, keep list too": ("PAPER", {**PAPER_LR, "keep": True}),
    "paper, rank 4": ("PAPER", {**PAPER_LR, "rank": 4}),
    "paper, gradients never zeroed": ("PAPER", {**PAPER_LR, DEFECT: "no zero_grad"}),
    "paper, latents one step late": ("PAPER", {**PAPER_LR, DEFECT: "late latents"}),
}
LABELS = erasing.LABELS
UNEDITED, STAGE1 = "no edit", "stage 1"


class Tuner:
    """Stage 2 on the demo model."""

    def __init__(self, bench: demo_world.Bench):
        self.encoder = pack("nodes.host.encoders").ClipEncoder(bench.world.clip)
        self.model = pack("nodes.host.denoiser").tunable(bench.world.model, RESOLUTION)

    def tune(self, delta, variant: str):
        """The tuned delta and its report."""
        preset, changes = VARIANTS[variant]
        changes = dict(changes)
        if changes.pop(ALONE, False):
            nothing = torch.zeros(delta.context_map.width, 0)
            no_map = dataclasses.replace(delta.context_map, factors=(nothing, nothing.mT.contiguous()))
            delta = dataclasses.replace(delta, context_map=no_map)
        with self.defect(changes.pop(DEFECT, None)):
            settings = getattr(pack("trce_ops.tuning.settings"), preset)
            settings = dataclasses.replace(settings, resolution=RESOLUTION, **changes)
            return pack("trce_ops.tuning.tune").tune_delta(delta, self.encoder, self.model, settings)

    @contextlib.contextmanager
    def defect(self, name: str | None) -> Iterator[None]:
        """What the official code does: gradients add up over all steps; x is taken after the step that sigma is of."""
        tune, train = pack("trce_ops.tuning.tune"), pack("trce_ops.tuning.train")
        collect = tune.collect

        def late(predict, contexts, plans, settings, *others):
            data = collect(predict, contexts, plans, settings, *others)
            sigmas = predict.denoise.schedule(settings.sampling_steps)
            points = data.erase
            following = sigmas[(sigmas[:, None] - points.sigma).abs().argmin(0) + 1]
            guided = points.e_u + settings.guidance * (points.e - points.e_u)
            x = points.x + (following - points.sigma).view(-1, 1, 1, 1) * guided
            neg, safe = contexts.neg[points.prompts], contexts.safe[points.prompts]
            empty = contexts.empty.repeat(len(x))
            e, e_safe, e_u = (predict(x, points.sigma, context) for context in (neg, safe, empty))
            return dataclasses.replace(data, erase=dataclasses.replace(points, x=x, e=e, e_u=e_u), e_safe=e_safe)

        with contextlib.ExitStack() as stack:
            if name == "late latents":
                stack.enter_context(mock.patch.object(tune, "collect", late))
            elif name == "no zero_grad":
                stack.enter_context(mock.patch.object(torch.optim.AdamW, "zero_grad", lambda *_: None))
                stack.enter_context(mock.patch.object(train, "GRADIENT_SCALE", 1.0))
            yield


def key(thing: str, name: str, images: int) -> str:
    return f"{thing}, {name}, {images} pictures"


def measure(bench: demo_world.Bench, tuner: Tuner, thing: str, wanted: list[str], images: int, known) -> Iterator:
    """(name, figures) of every variant in `wanted` that is not known yet."""
    if all(key(thing, name, images) in known for name in wanted):
        return
    seed = demo_world.SEED
    asked = erasing.prompts(thing, images, seed)
    context = bench.world.encode([prompt.text for prompt in asked])

    def look(model, seed=seed):
        return bench.world.look(bench.world.draw(model, context, seed))

    before = look(bench.world.model)
    kept = [i for i, prompt in enumerate(asked) if prompt.label.startswith("kept")]
    other = bench.world.look(bench.world.draw(bench.world.model, context[kept], seed + 1))
    between_seeds = (before.features[kept] - other.features).norm(dim=1).mean().item()
    stage1, delta, _ = bench.erase(thing, pack("trce_ops.closed_form.erase").EraseSettings())
    for name in wanted:
        if key(thing, name, images) in known:
            continue
        cost = {}
        if name == UNEDITED:
            verdict = before
        elif name == STAGE1:
            verdict = look(stage1)
        else:
            began = time.perf_counter()
            tuned, report = tuner.tune(delta, name)
            t = report.tuning
            cost = {
                "seconds": time.perf_counter() - began,
                "data": t.data_evaluations,
                "training": t.train_evaluations,
                "place": sum(t.positions[-30:]) / len(t.positions[-30:]),
                "change": t.changes[-1],
            }
            verdict = look(bench.apply(bench.world.model, tuned))
        scores = {label: dataclasses.asdict(score) for label, score in erasing.rates(asked, verdict).items()}
        moved = (before.features[kept] - verdict.features[kept]).norm(dim=1).mean().item()
        yield name, {"scores": scores, "moved": moved / between_seeds, **cost}


def table(results: dict[str, dict], concepts: list[str], names: list[str], images: int) -> str:
    """Mean over the concepts, as Markdown."""
    lines = [f"| | {' | '.join(LABELS)} | kept moved | cost |", f"|{'---|' * (len(LABELS) + 3)}"]
    for name in names:
        rows = [results[key(thing, name, images)] for thing in concepts]

        def mean(read, rows=rows):
            return sum(map(read, rows)) / len(rows)

        cells = []
        for label in LABELS:  # not every concept has every kind of words
            scores = [row["scores"][label] for row in rows if label in row["scores"]]
            shares = [sum(score[kind] for score in scores) / len(scores) for kind in ("hard", "soft") if scores]
            cells.append(" / ".join(f"{share:.1%}" for share in shares))
        cost = ""
        if "data" in rows[0]:
            cost = (
                f"{mean(lambda r: r['seconds']):.0f} s, {mean(lambda r: r['data']):.0f} + "
                f"{mean(lambda r: r['training']):.0f}, place {mean(lambda r: r['place']):.2f}, "
                f"change {mean(lambda r: r['change']):.1%}"
            )
        lines.append(f"| {name} | {' | '.join(cells)} | {mean(lambda r: r['moved']):.2f} | {cost} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=80, help="of every concept behind every figure")
    parser.add_argument("--concepts", nargs="+", default=list(erasing.CONCEPTS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    bench = demo_world.load()
    tuner = Tuner(bench)
    names = [UNEDITED, STAGE1, *options.variants]
    results = resume.read(options.json) or {}
    for thing in options.concepts:
        for name, figures in measure(bench, tuner, thing, names, options.images, results):
            results[key(thing, name, options.images)] = figures
            print(thing, name, {k: f"{v['hard']:.0%}" for k, v in figures["scores"].items()}, flush=True)
            resume.write(options.json, results)

    total = options.images * len(options.concepts)
    print(f"\nmean over {', '.join(options.concepts)}; hard / soft; {total} pictures behind each figure;")
    print("kept moved: distance of the judge's features before and after, of that between two seeds; cost: time,")
    print("UNet evaluations (data + training), place and change of the weights at the end\n")
    print(table(results, options.concepts, names, options.images))


if __name__ == "__main__":
    main()
