"""How well does each method erase? `python dev.py bench erasure [--method ...] [--concept ...] [--json FILE] [--quick]`

For every method and concept: how often the judge recognises the concept by kind of prompt, and what is kept, before
and after; how far the pictures of kept prompts have shifted; seconds and UNet evaluations. --together 1 2 4 erases so
many of the concepts at once, by one delta and by a stack of one for each. --prompts scores a file of "label<TAB>prompt"
lines instead; labels that start with "kept" are scored by what their prompt asks for.

--json is written as the figures come and taken up again from there. For one method and one concept it is an object of
method, concept, seconds, evaluations, images, shift, and rows of label, prompt, images, before, after, soft_before and
soft_after; otherwise a list of them. It ends with a Markdown table: means over the concepts with 95 % intervals.

A picture takes about 0.14 s of one core: the closed forms about half an hour for all six concepts, --quick six minutes.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import demo_world
import erasing
import resume
import torch
from erasing import Prompt, Score
from judge import Verdict, frechet
from torch import Tensor
from tqdm import tqdm

STACKED = ", stacked"  # after a method's name: a delta for each concept, one on the other
KEPT = "kept"  # what labels of kept prompts start with
UNEDITED = "no edit"
QUICK_CONCEPTS, QUICK_IMAGES = ("star", "striped", "red"), 12


@dataclass(frozen=True)
class Case:
    """Concepts to erase at once, and what that is judged on: pictures of the unedited model by the same seed."""

    things: tuple[str, ...]
    prompts: list[Prompt]  # one for each picture
    context: Tensor
    before: Verdict
    kept: list[int]  # the places of prompts that must survive
    other: Tensor | None  # the features (n, d) of their pictures by another seed; None for fewer than two

    def shift(self, features: Tensor) -> float | None:
        """How far the kept pictures have moved: 0 = not at all, 1 = as far as it is to another seed's pictures."""
        if self.other is None:
            return None
        unedited = self.before.features[self.kept]
        return frechet(unedited, features[self.kept]) / frechet(unedited, self.other)


def read_prompts(lines: Iterable[str], thing: str, images: int) -> list[Prompt]:
    """`images` of each line "label<TAB>prompt", looked at for `thing`, or for what a kept prompt asks for."""
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        label, _, text = (part.strip() for part in line.partition("\t"))
        if not label or not text:
            raise SystemExit(f"Line {number} of --prompts is {line.strip()!r}; write label<TAB>prompt.")
        wanted = thing
        if label.startswith(KEPT):
            wanted = erasing.asked_for(text, other_than=thing)
            if wanted is None:
                raise SystemExit(f"Line {number} of --prompts is to be kept and names nothing that the judge knows.")
        found += [Prompt(label, text, wanted)] * images
    if not found:
        raise SystemExit("--prompts has no lines; write label<TAB>prompt on each.")
    return found


def prepare(bench: demo_world.Bench, things: tuple[str, ...], prompts: list[Prompt]) -> Case:
    """The unedited model's pictures, and of the kept prompts those of another seed as well."""

    def look(context: Tensor, seed: int) -> Verdict:
        return bench.world.look(bench.world.draw(bench.world.model, context, seed))

    context = bench.world.encode([prompt.text for prompt in prompts])
    before = look(context, demo_world.SEED)
    kept = [i for i, prompt in enumerate(prompts) if prompt.label.startswith(KEPT)]
    other = look(context[kept], demo_world.SEED + 1).features if len(kept) > 1 else None
    return Case(things, prompts, context, before, kept, other)


def rows(prompts: list[Prompt], before: Verdict, after: Verdict) -> list[dict]:
    """The rates of every prompt, before and after. Attacks add rows of their own labels."""
    places: dict[Prompt, list[int]] = {}
    for i, prompt in enumerate(prompts):
        places.setdefault(prompt, []).append(i)

    def rates(verdict: Verdict, thing: str, where: list[int]) -> tuple[float, float]:
        hard, soft = verdict.recognised(thing)[where].float(), verdict.probability(thing)[where]
        return round(hard.mean().item(), 4), round(soft.mean().item(), 4)

    found = []
    for prompt, where in places.items():
        (before_hard, before_soft), (hard, soft) = (rates(v, prompt.thing, where) for v in (before, after))
        found.append(
            {
                "label": prompt.label,
                "prompt": prompt.text,
                "images": len(where),
                "before": before_hard,
                "after": hard,
                "soft_before": before_soft,
                "soft_after": soft,
            }
        )
    return found


def measure(bench: demo_world.Bench, name: str, case: Case) -> dict:
    """One method on one case. Its name may end in STACKED."""
    method = name.removesuffix(STACKED)
    steps = [(thing,) for thing in case.things] if name != method else [case.things]
    if not bench.methods.METHODS[method].trains:
        for things in steps:
            bench.erase_with(method, things)  # its time is with the everyday captions encoded already, as on every use
    _, deltas, reports = zip(*(bench.erase_with(method, things) for things in steps), strict=True)
    model = reduce(lambda model, delta: bench.host.apply_delta(model, delta, 1.0), deltas, bench.world.model)
    after = bench.world.look(bench.world.draw(model, case.context, demo_world.SEED))
    return {
        "seconds": round(sum(sum(report.seconds.values()) for report in reports), 3),
        "evaluations": sum(report.evaluations for report in reports),
        "shift": case.shift(after.features),
        "rows": rows(case.prompts, case.before, after),
    }


def jobs(options: argparse.Namespace) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """(concepts at once, names of methods). The same concepts for every number at once: 4, 2 + 2, 1 + 1 + 1 + 1."""
    concepts = options.concept[: max(options.together, default=None)]
    for n in options.together or [1]:
        stacked = [method + STACKED for method in options.method if n > 1]
        for first in range(0, len(concepts) - n + 1, n):
            yield tuple(concepts[first : first + n]), [*options.method, *stacked]


def label_scores(runs: Sequence[dict], side: str) -> dict[str, Score]:
    """Of all pictures of all runs, by label. side: before or after."""
    pooled: dict[str, list[tuple]] = {}
    for row in (row for run in runs for row in run["rows"]):
        pooled.setdefault(row["label"], []).append((row["images"], row[side], row[f"soft_{side}"]))
    scores = {}
    for label, found in pooled.items():
        n = sum(images for images, *_ in found)
        scores[label] = Score(n, *(sum(f[0] * f[k] for f in found) / n for k in (1, 2)))
    return scores


def table(runs: Sequence[dict]) -> str:
    """Markdown, a line for each method (and number of concepts at once): means over the runs with 95 % intervals."""
    lines: dict[tuple[int, str], list[dict]] = {}
    for run in runs:
        lines.setdefault((run["concept"].count("+") + 1, run["method"]), []).append(run)
    several = any(n > 1 for n, _ in lines)
    labels = list(dict.fromkeys(row["label"] for run in runs for row in run["rows"]))

    def cells(scores: dict[str, Score]) -> list[str]:
        texts = []
        for score in map(scores.get, labels):
            low, high = score.interval if score else (0, 0)
            texts.append(f"{score.hard:.1%} ({max(0, low):.1%} to {high:.1%})" if score else "")
        counts = sorted(score.images for score in scores.values())
        return [f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}", *texts]

    names = [label.replace("_", " ") for label in labels]
    head = [*(["at once"] if several else []), "method", "images", *names, "shift", "seconds", "evaluations"]
    text = [head, ["---"] * len(head)]
    for n in sorted({n for n, _ in lines}):
        count = [str(n)] if several else []
        group = {name: found for (size, name), found in lines.items() if size == n}
        longest = max(group.values(), key=len)
        text.append([*count, UNEDITED, *cells(label_scores(longest, "before")), "", "", ""])
        for name, found in group.items():
            shifts = [run["shift"] for run in found if run["shift"] is not None]
            shift = f"{sum(shifts) / len(shifts):.2f} ({min(shifts):.2f} to {max(shifts):.2f})" if shifts else ""
            seconds = sum(run["seconds"] for run in found) / len(found)
            evaluations = sum(run["evaluations"] for run in found) / len(found)
            name = name if len(found) == len(longest) else f"{name} ({len(found)} concepts)"
            cost = [f"{seconds:.1f}", f"{evaluations:.0f}"]
            text.append([*count, name, *cells(label_scores(found, "after")), shift, *cost])
    return "\n".join(f"| {' | '.join(line)} |" for line in text)


def run(bench: demo_world.Bench, options: argparse.Namespace) -> list[dict]:
    """All jobs that --json does not have yet; all runs asked for, in order."""
    plan = list(jobs(options))
    lines, gone, asked = [], (), "built in"
    if options.prompts:
        lines = options.prompts.read_text(encoding="utf-8-sig").splitlines()
        asked = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
    elif options.together:
        gone = tuple(dict.fromkeys(thing for things, _ in plan for thing in things))
        asked = f"built in, kept ones without {', '.join(gone)}"

    def prompts(thing: str) -> list[Prompt]:
        if options.prompts:
            return read_prompts(lines, thing, options.images)
        return erasing.prompts(thing, options.images, demo_world.SEED, also=gone)

    known = resume.read(options.json) or []
    known = known if isinstance(known, list) else [known]

    def key(run: dict) -> tuple:
        return run["method"], run["concept"], run["images"], run["prompts"]

    def facts(name: str, things: tuple[str, ...]) -> dict:
        return {"method": name, "concept": "+".join(things), "images": options.images, "prompts": asked}

    done = {key(run): run for run in known}
    wanted = [key(facts(name, things)) for things, names in plan for name in names]
    with tqdm(total=len(wanted), initial=sum(k in done for k in wanted), unit="run") as bar:
        for things, names in plan:
            open_ = [name for name in names if key(facts(name, things)) not in done]
            if not open_:
                continue
            bar.set_description(f"{' + '.join(things)}: {UNEDITED}")
            case = prepare(bench, things, [prompt for thing in things for prompt in prompts(thing)])
            for name in open_:
                bar.set_description(f"{' + '.join(things)}: {name}")
                found = facts(name, things)
                done[key(found)] = found | measure(bench, name, case)
                everything = list(done.values())
                resume.write(options.json, everything[0] if len({*wanted, *done}) == 1 else everything)
                bar.update()
    return [done[k] for k in wanted]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", metavar="NAME", help="of trce_ops.methods; default: all")
    parser.add_argument(
        "--concept", nargs="+", metavar="NAME", choices=list(erasing.SAFE), help="default: all reported"
    )
    parser.add_argument("--images", type=int, help="of every concept behind every figure (40), or of each line (8)")
    parser.add_argument("--together", nargs="+", type=int, default=[], metavar="N", help="so many concepts at once")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="lines of label<TAB>prompt, scored instead")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--quick", action="store_true", help="few concepts and pictures, no method that trains")
    options = parser.parse_args(arguments)
    options.concept = options.concept or list(QUICK_CONCEPTS if options.quick else erasing.CONCEPTS)
    options.images = options.images or (8 if options.prompts else QUICK_IMAGES if options.quick else 40)
    if bad := [n for n in options.together if not 1 <= n <= len(options.concept)]:
        parser.error(f"--together {bad[0]}: from 1 to the {len(options.concept)} of --concept")
    if options.together and options.prompts:
        parser.error("--prompts scores one concept at a time; leave out --together")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    bench = demo_world.load()
    methods = bench.methods.METHODS
    options.method = options.method or [n for n, method in methods.items() if not (options.quick and method.trains)]
    if unknown := [name for name in options.method if name not in methods]:
        raise SystemExit(f"--method {unknown[0]}: choose from {', '.join(methods)}")
    with torch.random.fork_rng(devices=[]):
        runs = run(bench, options)
    print(f"\nHow often the judge recognises it; {options.images} pictures of", end=" ")
    print("each line" if options.prompts else "every concept behind every figure", end="; ")
    print("shift: Frechet distance of kept pictures, 1 = that between two seeds (least to most over the concepts)\n")
    print(table(runs))


if __name__ == "__main__":
    main()
