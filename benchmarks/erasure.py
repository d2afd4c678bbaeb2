"""How well does each method erase? `python dev.py bench erasure [--method ...] [--concept ...] [--json FILE] [--quick]`

For every method and concept: how often the judge recognises the concept by kind of prompt, and what is kept, before
and after; how far the pictures of kept prompts have shifted; whether attacks bring the concept back (attacks.py),
on the unedited model and on the erased one; seconds and evaluations of the model.

    --variants SET     settings side by side in place of methods: tokens, tuning, grid (variants.py); without attacks
    --world flow       on the flow model, a transformer in Stable Diffusion 3's layout
    --tuning-concepts  those on which settings are chosen, not those that are reported
    --attacks NAME     only these attacks, or all without a name; in --quick, --together and --prompts too
    --no-attacks       none
    --method from-pictures, from-pictures-tuned     TRCE by 8 pictures of the concept, without its name
    --negative TEXT    with this negative prompt, for example "lowres, blurry, {}, watermark"
    --together 1 2 4   so many of the concepts at once, by one delta and by a stack of one for each
    --prompts FILE     score "label<TAB>prompt" lines instead; labels that start with "kept" by what the prompt asks for
    --prompts TARGET.csv --retain RETAIN.csv           the same for prompt files of eval-unlearn (outside.py)
    --eval-unlearn OUT write the results into the folder OUT as eval-unlearn's reports too
    --ray [ADDRESS]    spread (method, concept) jobs over a Ray cluster that is there already
    --picture FILE     draw a few prompts by every method for the first concept, and measure nothing
    --trade-off FILE   draw what the first of the attacks brings back against what is kept

--json is written as the figures come and taken up again from there. For one method and one concept it is an object of
method, concept, seconds, evaluations, images, shift, attacks (queries and seconds of each), and rows of label, prompt,
images, before, after, soft_before and soft_after; otherwise a list of them. Rows labelled kept_style and so on are of
the kept prompts' pictures, looked at for what else the prompt asks for; erase_eval has EraseEval's scores (scores.py).
At the end come Markdown tables: rates over all pictures of all concepts, with 95 % intervals, and EraseEval's scores.

A picture takes about 0.14 s of one core: a method on a concept half a minute, its attacks a minute and a half more, and
trce some minutes of training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import attacks
import cases
import demo_world
import erasing
import outside
import picture
import resume
import scores
import spread
import trade_off
import variants
from cases import STACKED, Asked, Job
from erasing import Score
from in_comfyui import pack
from tqdm import tqdm

UNEDITED = "unedited"
ALL_ATTACKS = "all_attacks"
QUICK_CONCEPTS, QUICK_IMAGES = ("cigarette", "tiger", "line art"), 12
OF_FLOW = ("erase-anything",)  # methods that train a text stream, which the UNet does not have


def jobs(options: argparse.Namespace) -> list[Job]:
    """What is to be measured, in order. The same concepts for every number at once: 4, 2 + 2, 1 + 1 + 1 + 1."""
    lines = outside.read_lines(options.prompts, options.retain)
    concepts = options.concept[: max(options.together, default=None)]
    plan = []
    for n in options.together or [1]:
        stacked = [method + STACKED for method in options.method if n > 1]
        groups = [tuple(concepts[first : first + n]) for first in range(0, len(concepts) - n + 1, n)]
        plan += [(things, method) for things in groups for method in [*options.method, *stacked]]
    gone = tuple(dict.fromkeys(thing for things, _ in plan for thing in things)) if options.together else ()
    given = (gone, lines, options.attacks, options.negative, options.world)
    return [Job(method, Asked(things, options.images, *given)) for things, method in plan]


def groups(labels: Sequence[str]) -> list[list[str]]:
    """Labels by the table that they are in: recognition, what else is kept, attacks."""
    known = [[label for label in labels if cases.is_aside(label)]]
    known.append([label for label in labels if label in attacks.ATTACKS or label == ALL_ATTACKS])
    return [[label for label in labels if not any(label in group for group in known)], *known]


def label_scores(runs: Sequence[dict], side: str) -> dict[str, Score]:
    """Of all pictures of all runs, by label, and of all attacks together. side: before or after."""
    pooled: dict[str, list[tuple]] = {}
    for row in (row for run in runs for row in run["rows"]):
        for label in (row["label"], *([ALL_ATTACKS] if row["label"] in attacks.ATTACKS else [])):
            pooled.setdefault(label, []).append((row["images"], row[side], row[f"soft_{side}"]))
    scores = {}
    for label, found in pooled.items():
        n = sum(images for images, *_ in found)
        scores[label] = Score(n, *(sum(f[0] * f[k] for f in found) / n for k in (1, 2)))
    return scores


def table(runs: Sequence[dict]) -> str:
    """Markdown, a line for each method (and number of concepts at once): rates over the runs with 95 % intervals."""
    labels = list(dict.fromkeys(label for run in runs for label in label_scores([run], "after")))
    labels.sort(key=lambda label: label == ALL_ATTACKS)  # last
    first, *others = groups(labels)
    tables = [_table(runs, first, costs=True), *(_table(runs, group) for group in others if group)]
    return "\n\n".join(tables)


def _table(runs: Sequence[dict], labels: Sequence[str], costs: bool = False) -> str:
    lines: dict[tuple[int, str], list[dict]] = {}
    for run in runs:
        if {row["label"] for row in run["rows"]} & set(labels):
            lines.setdefault((run["concept"].count("+") + 1, run["method"]), []).append(run)
    several = any(n > 1 for n, _ in lines)

    def cells(scores: dict[str, Score]) -> list[str]:
        texts = []
        for score in map(scores.get, labels):
            low, high = score.interval if score else (0, 0)
            texts.append(f"{score.hard:.1%} ({max(0, low):.1%} to {high:.1%})" if score else "")
        counts = sorted(scores[label].images for label in labels if label in scores and label != ALL_ATTACKS)
        return [f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}", *texts]

    def spent(found: Sequence[dict]) -> list[str]:
        if not costs:
            return []
        shifts = [run["shift"] for run in found if run["shift"] is not None]
        shift = f"{sum(shifts) / len(shifts):.2f} ({min(shifts):.2f} to {max(shifts):.2f})" if shifts else ""
        seconds, evaluations = (sum(run[cost] for run in found) / len(found) for cost in ("seconds", "evaluations"))
        return [shift, f"{seconds:.1f}", f"{evaluations:.0f}"]

    names = [label.replace("_", " ") for label in labels]
    head = [*(["at once"] if several else []), "method", "images", *names]
    head += ["shift", "seconds", "evaluations"] if costs else []
    text = [head, ["---"] * len(head)]
    for n in sorted({n for n, _ in lines}):
        count = [str(n)] if several else []
        group = {name: found for (size, name), found in lines.items() if size == n}
        longest = max(group.values(), key=len)
        text.append([*count, UNEDITED, *cells(label_scores(longest, "before")), *([""] * 3 if costs else [])])
        for name, found in group.items():
            name = variants.TITLES.get(name, name)
            name = name if len(found) == len(longest) else f"{name} ({len(found)} concepts)"
            text.append([*count, name, *cells(label_scores(found, "after")), *spent(found)])
    return "\n".join(f"| {' | '.join(line)} |" for line in text)


def run(options: argparse.Namespace) -> list[dict]:
    """All jobs that --json does not have yet; all runs asked for, in order."""
    plan = jobs(options)
    known = resume.read(options.json) or []

    def key(run: dict) -> str:
        return json.dumps([run.get(fact) for fact in plan[0].facts()])

    done = {key(run): run for run in (known if isinstance(known, list) else [known])}
    wanted = {key(job.facts()): job for job in plan}
    order = list(dict.fromkeys([*done, *wanted]))
    open_ = [job for k, job in wanted.items() if k not in done]
    measured = (
        spread.over_ray(cases.measure, open_, options.ray) if options.ray else spread.serial(cases.measure, open_)
    )
    with tqdm(total=len(wanted), initial=len(wanted) - len(open_), unit="run") as bar:
        for job, found in measured:
            done[key(job.facts())] = {**job.facts(), **found}
            everything = [done[k] for k in order if k in done]
            resume.write(options.json, everything[0] if len(order) == 1 else everything)
            bar.set_description(f"{' + '.join(job.asked.things)}: {job.method}")
            bar.update()
    return [done[k] for k in wanted]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", metavar="NAME[:KNOB=VALUE]", help="default: all that the model can have")
    parser.add_argument("--variants", choices=variants.VARIANTS, help="instead of --method: settings side by side")
    parser.add_argument(
        "--concept", nargs="+", metavar="NAME", choices=list(erasing.SAFE), help="default: all reported"
    )
    parser.add_argument("--tuning-concepts", action="store_true", help="those on which settings are chosen")
    parser.add_argument("--images", type=int, help="of every concept behind every figure (40), or of each line (8)")
    parser.add_argument(
        "--attacks",
        nargs="*",
        choices=attacks.EVERY,
        metavar="NAME",
        help="attack each erasure, by all if none is named",
    )
    parser.add_argument("--negative", default="", metavar="TEXT", help="the negative prompt; {} is what is erased")
    parser.add_argument("--no-attacks", dest="attacks", action="store_const", const=False)
    parser.add_argument(
        "--world", choices=demo_world.WORLDS, default="emoji", help="the model: a UNet, or the flow model"
    )
    parser.add_argument("--together", nargs="+", type=int, default=[], metavar="N", help="so many concepts at once")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="lines of label<TAB>prompt or CSV, scored instead")
    parser.add_argument("--retain", type=Path, metavar="FILE.csv", help="with --prompts: more prompts, to be kept")
    parser.add_argument("--eval-unlearn", type=Path, metavar="OUT", help="folder for reports of eval-unlearn's form")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--quick", action="store_true", help="few concepts and pictures, no method that trains")
    parser.add_argument("--ray", nargs="?", const="auto", metavar="ADDRESS", help="of a Ray cluster; default: this one")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw what every method makes of a concept")
    parser.add_argument("--trade-off", type=Path, metavar="FILE.png", help="draw the first attack against what is kept")
    options = parser.parse_args(arguments)
    everything = erasing.TUNING if options.tuning_concepts else erasing.CONCEPTS
    options.concept = options.concept or list(QUICK_CONCEPTS if options.quick else everything)
    options.images = options.images or (8 if options.prompts else QUICK_IMAGES if options.quick else 40)
    without = options.variants or options.quick or options.together or options.prompts
    if options.attacks is False or options.attacks is None and without:
        options.attacks = ()
    else:
        options.attacks = tuple(options.attacks or attacks.EVERY)
    if options.world == "flow" and (other := set(options.attacks) - set(attacks.ON_TEXT)):
        if other != set(attacks.EVERY) - set(attacks.ON_TEXT):
            parser.error(f"--attacks {min(other)}: the flow model is attacked by {', '.join(attacks.ON_TEXT)}")
        options.attacks = attacks.ON_TEXT
    if bad := [n for n in options.together if not 1 <= n <= len(options.concept)]:
        parser.error(f"--together {bad[0]}: from 1 to the {len(options.concept)} of --concept")
    if options.trade_off and not set(options.attacks) & set(attacks.ATTACKS):
        parser.error("--trade-off draws an attack; name one with --attacks")
    if options.retain and not options.prompts:
        parser.error("--retain adds to --prompts; give both")
    if options.together and options.prompts:
        parser.error("--prompts scores one concept at a time; leave out --together")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    cases.bench(options.world)
    methods = pack("trce_ops.methods").METHODS
    if options.variants:
        options.method = list(variants.VARIANTS[options.variants].values())
    if options.method is None:
        without = () if options.world == "flow" else OF_FLOW
        options.method = [n for n, m in methods.items() if n not in without and not (options.quick and m.trains)]
    for name in options.method:
        if name not in demo_world.FROM_PICTURES:
            demo_world.method_settings(name)  # stops where there is none of that name
    if options.picture:
        picture.draw(options.world, options.method, options.concept[0], options.picture, UNEDITED)
        return
    runs = run(options)
    print(f"\nHow often the judge recognises it; {options.images} pictures of", end=" ")
    print("each line" if options.prompts else "every concept behind every figure", end="; ")
    print("shift: Frechet distance of kept pictures, 1 = that between two seeds (least to most over the concepts)\n")
    print(table(runs))
    print("\nEraseEval's scores (0 to 1), mean over the concepts, with the demo's judge in place of language models\n")
    print(scores.table(runs))
    if options.trade_off:
        attack = next(name for name in options.attacks if name in attacks.ATTACKS)
        trade_off.draw(runs, attack, options.trade_off, UNEDITED)
    if options.eval_unlearn:
        outside.write(options.eval_unlearn, runs)


if __name__ == "__main__":
    main()
