"""How fast? `python dev.py bench speed [--quick] [--json FILE]`

Stage 1 against the published procedure (official_stage1.py), growth with the number of concepts, SDXL's shape, memory,
size of the delta, time of a sampling step with and without it, and UNet evaluations of stage 2. Models have the public
shapes and random weights. One thread, both sides by turns in one process. Seconds are CPU time. For a GPU there is
gpu.py.

The full run takes 20 minutes of one free core and 8 GB, --quick (60 pairs instead of 300) a quarter of that.
"""

from __future__ import annotations

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import memory as peaks
import random_models
import torch
from random_models import SHAPES, pack
from speed_stage1 import Stage1, time_sdxl

# Of the published second stage at its settings for one concept: UNet predictions, one picture each.
OFFICIAL_DATA = 210_000  # 100 guided trajectories of 50 steps, and 2,000 of the empty prompt, guided as well
OFFICIAL_TRAIN = 2_076 + 1_776  # without and with a gradient, in 300 steps
GROWTH = (1, 10, 100)
PIXELS = 128  # of the picture's side; 512 takes some 40 s a step on one thread
STEPS = 6

say = partial(print, flush=True)


class Table:
    """Prints what is measured as it comes, and keeps it: as rows for people, as figures for the JSON file."""

    def __init__(self, json_file: Path | None):
        self.json_file = json_file
        self.rows: list[tuple[str, str]] = []
        self.figures: dict[str, float] = {}

    def row(self, what: str, result: str, **figures: float) -> None:
        self.rows.append((what, result))
        self.figures.update(figures)
        say(f"{what}: {result}")
        if self.json_file:
            self.json_file.write_text(json.dumps(self.figures, indent=1) + "\n", encoding="utf-8")

    def print(self) -> None:
        say("\n| | official procedure / ours |\n|---|---|")
        for what, result in self.rows:
            say(f"| {what} | {result} |")


def stage1(table: Table, options: argparse.Namespace) -> None:
    bench = Stage1()
    for concepts, times in {4: 3, **({} if options.quick else {20: options.repeats})}.items():
        prompts = random_models.make_prompts(concepts)
        n = len(prompts)
        ratios = bench.compare(prompts, times, say)
        for step, name, what in (
            ("end_to_end", "stage1_end_to_end_ratio", "from prompts to edited projections"),
            ("solve", "stage1_solve_ratio", "solving alone (the map / 32 matrices)"),
            ("edit", "stage1_edit_ratio", "solving, and applying to 32 matrices"),
        ):
            median = ratios[step].median
            what = f"stage 1, {n} pairs: {what}"
            table.row(what, f"{ratios[step]}, n = {times}", **{name: median, f"{name}_{n}": median})
        for name in ("official", "ours"):
            table.figures[f"stage1_{name}_seconds_{n}"] = statistics.median(run["total"] for run in ratios[name])
    context_map = bench.context_map(bench.solve(bench.embed(prompts)))
    megabytes = 4 * sum(factor.numel() for factor in context_map.factors) / 1e6
    table.row(f"delta of {n} pairs, rank {context_map.rank}", f"{megabytes:.2f} MB", delta_mb=megabytes)


def growth(table: Table, options: argparse.Namespace) -> None:
    runs = Stage1().growth(GROWTH, 1 if options.quick else 3)
    seconds = {count: statistics.median(encode + solve for encode, solve, _ in run) for count, run in runs.items()}
    solves = {count: statistics.median(solve for _, solve, _ in run) for count, run in runs.items()}
    defaults = {count: statistics.median(default for *_, default in run) for count, run in runs.items()}
    counts = ", ".join(map(str, GROWTH))
    table.row(
        f"our stage 1 for {counts} concepts, 15 prompts each, to the map",
        " / ".join(f"{value:.2f} s" for value in seconds.values()),
        growth_1_to_100=seconds[100] / seconds[1],
        **{f"stage1_seconds_{count}_concepts": value for count, value in seconds.items()},
    )
    table.row(
        f"of these, from embeddings to the map, for {counts} concepts",
        f"{' / '.join(f'{value:.3f} s' for value in solves.values())}, {solves[100] / solves[1]:.1f}x from 1 to 100",
        solve_growth_1_to_100=solves[100] / solves[1],
        **{f"stage1_solve_seconds_{count}_concepts": value for count, value in solves.items()},
    )
    table.row(
        f"the same by default (`metric` on), from embeddings and 32 projections to the map, for {counts} concepts",
        f"{' / '.join(f'{value:.3f} s' for value in defaults.values())}, "
        f"{defaults[100] / defaults[1]:.1f}x from 1 to 100",
        default_growth_1_to_100=defaults[100] / defaults[1],
        **{f"stage1_default_seconds_{count}_concepts": value for count, value in defaults.items()},
    )


def sdxl(table: Table, options: argparse.Namespace) -> None:
    seconds = time_sdxl(300, 1 if options.quick else 3)
    median = {step: statistics.median(values) for step, values in seconds.items()}
    steps = " + ".join(f"{median[step]:.2f}" for step in ("metric", "solve", "factorize", "apply"))
    table.row(
        "our stage 1 at SDXL's shape, 300 pairs: the metric of 140 projections, solving, factorising, applying to them",
        f"{steps} s, n = {len(seconds['total'])}",
        sdxl_solve_apply_seconds=median["total"],
    )


def memory(table: Table, options: argparse.Namespace) -> None:
    if not peaks.supported():
        return
    concepts = 4 if options.quick else 20
    official, ours = (peaks.measure("stage1", name, concepts)["peak"] for name in (peaks.OFFICIAL, peaks.OURS))
    table.row(
        f"stage 1, {15 * concepts} pairs: working set",
        f"{official:.0f} / {ours:.0f} MB = {official / ours:.1f}x",
        working_set_ratio=official / ours,
        working_set_official_mb=official,
        working_set_ours_mb=ours,
    )


def sampling(table: Table, options: argparse.Namespace) -> None:
    """The model as it is and the erased one, by turns."""
    model, shape = random_models.make_model(), SHAPES["sd1"]
    delta = random_models.make_delta(shape, rank=0)
    contexts = random_models.make_contexts(shape)
    apply_delta = pack("nodes.host.apply").apply_delta

    apply = [random_models.load_seconds(apply_delta(model, delta, 1.0), "cpu") for _ in range(3)]
    table.row(
        "applying a dense delta while ComfyUI loads SD1.5",
        f"{statistics.median(apply):.2f} s, n = {len(apply)}",
        apply_seconds=statistics.median(apply),
    )
    overheads = []
    for repeat in range(3 if options.quick else 7):
        turns = {"plain": model, "erased": apply_delta(model, delta, 1.0)}
        steps = {
            name: statistics.median(random_models.sample(turns[name], shape, contexts, PIXELS, STEPS)[1])
            for name in (turns if repeat % 2 == 0 else reversed(turns))
        }
        say(f"  a step {steps['plain']:.3f} s, with the delta {steps['erased']:.3f} s")
        overheads.append(steps["erased"] / steps["plain"] - 1)
    overhead = statistics.median(overheads)
    table.row(
        f"what the delta adds to a sampling step, {PIXELS} x {PIXELS} pixels, CFG, {STEPS} steps by turns",
        f"{overhead:+.1%} ({min(overheads):+.1%} to {max(overheads):+.1%}), n = {len(overheads)}",
        sampling_overhead=overhead,
    )


def stage2(table: Table, options: argparse.Namespace) -> None:
    """UNet evaluations in the paper's settings, counted from the pack's own plan: nothing is run."""
    paper = pack("trce_ops.tuning.settings").PAPER
    generator = torch.Generator().manual_seed(paper.seed)
    plans = pack("trce_ops.tuning.data").draw_plans(paper.trajectories, 0, paper, generator)
    train = paper.steps * (2 * paper.batch + paper.empty_batch)  # two terms of erasing, one of keeping the empty prompt
    for name, official, ours in (("data", OFFICIAL_DATA, plans.evaluations), ("train", OFFICIAL_TRAIN, train)):
        table.row(
            f"stage 2, the paper's settings: UNet evaluations, {name}",
            f"{official:,} / {ours:,} = {official / ours:.1f}x",
            **{
                f"stage2_{name}_evaluations": official / ours,
                f"stage2_{name}_evaluations_official": official,
                f"stage2_{name}_evaluations_ours": ours,
            },
        )


SECTIONS = {
    "stage1": stage1,
    "growth": growth,
    "sdxl": sdxl,
    "memory": memory,
    "sampling": sampling,
    "stage2": stage2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="60 pairs instead of 300, and fewer repeats")
    parser.add_argument("--repeats", type=int, default=3, help="of the official procedure with 300 pairs")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    random_models.load()
    table = Table(options.json)
    with torch.inference_mode():  # as ComfyUI runs nodes
        for name in options.sections:
            SECTIONS[name](table, options)
    table.print()


if __name__ == "__main__":
    main()
