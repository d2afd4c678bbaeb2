"""One method on one case as a function of nothing but what is asked, so that it may run in any process.

`measure(job)` erases, draws, looks, attacks, and returns what the --json of `erasure.py` has of it. Each process loads
the demo model once, and keeps what the unedited model drew for the last case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, lru_cache, reduce

import attacks
import demo_world
import erasing
import scores
import torch
from erasing import Prompt
from in_comfyui import pack
from judge import Verdict, frechet
from torch import Tensor

STACKED = ", stacked"  # after a method's name: a delta for each concept, one on the other
KEPT = "kept"  # what labels of kept prompts start with
ASIDE = tuple(f"{KEPT}_{axis}" for axis in erasing.AXES)


@dataclass(frozen=True)
class Asked:
    """What a method is to be judged on."""

    things: tuple[str, ...]  # to erase at once
    images: int
    gone: tuple[str, ...] = ()  # named by no kept prompt either
    lines: tuple[str, ...] = ()  # of --prompts; none for the prompts built in
    attacked: tuple[str, ...] = ()  # by which attacks
    negative: str = ""  # the negative prompt, with {} for what is erased
    world: str = "emoji"  # the model: one of demo_world.WORLDS

    def prompts(self) -> list[Prompt]:
        """One for each picture."""
        if self.lines:
            return [p for thing in self.things for p in read_prompts(self.lines, thing, self.images)]
        found = (erasing.prompts(thing, self.images, demo_world.SEED, also=self.gone) for thing in self.things)
        return [prompt for prompts in found for prompt in prompts]

    def facts(self) -> dict:
        """What makes it another measurement than one that a file has."""
        prompts = "built in"
        if self.lines:
            prompts = hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:12]
        elif self.gone:
            prompts = f"built in, kept ones without {', '.join(self.gone)}"
        attacked = {"attacks": self.attacked, **asdict(attacks.SETTINGS)} if self.attacked else None
        facts = {"concept": "+".join(self.things), "images": self.images, "prompts": prompts, "attacked": attacked}
        facts |= {"negative": self.negative} if self.negative else {}
        return facts | ({"world": self.world} if self.world != "emoji" else {})

    def draw(self, model, context: Tensor, seed: int) -> Verdict:
        """What the judge sees in the model's pictures."""
        world = bench(self.world).world
        negative = self.negative.format(", ".join(map(erasing.phrase, self.things)))
        return world.look(world.draw(model, context, seed, negative=negative))


@dataclass(frozen=True)
class Job:
    method: str  # may end in STACKED
    asked: Asked

    def facts(self) -> dict:
        return {"method": self.method, **self.asked.facts()}


@dataclass(frozen=True)
class Case:
    """What a method is judged on, and how the unedited model fares there by the same seed."""

    prompts: list[Prompt]  # one for each picture
    context: Tensor
    before: Verdict
    kept: list[int]  # the places of prompts that must survive
    other: Tensor | None  # the features (n, d) of their pictures by another seed; None for fewer than two
    aims: list[attacks.Aim]  # of each concept, when it is to be attacked
    attacked: list[dict[str, attacks.Attacked]]  # the same attacks on the unedited model

    def shift(self, features: Tensor) -> float | None:
        """How far the kept pictures have moved: 0 = not at all, 1 = as far as it is to another seed's pictures."""
        if self.other is None:
            return None
        unedited = self.before.features[self.kept]
        return frechet(unedited, features[self.kept]) / frechet(unedited, self.other)


def read_prompts(lines: Sequence[str], thing: str, images: int) -> list[Prompt]:
    """`images` of each line "label<TAB>prompt", looked at for `thing`, or for NAME where the label is kept:NAME."""
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        label, _, text = (part.strip() for part in line.partition("\t"))
        if not label or not text:
            raise SystemExit(f"Line {number} of --prompts is {line.strip()!r}; write label<TAB>prompt.")
        wanted = thing
        if label.startswith(KEPT):
            _, colon, name = label.partition(":")
            wanted = name.strip() if colon else erasing.named_in(text, other_than=thing)
            if wanted not in erasing.THINGS:
                raise SystemExit(
                    f"{text!r}, prompt {number}, is to be kept and names no concept of the emoji world; label it "
                    "kept:NAME, with a name from demo/emoji/concepts.txt or a style."
                )
        found += [Prompt(label, text, wanted)] * images
    if not found:
        raise SystemExit("--prompts has no lines; write label<TAB>prompt on each.")
    return found


def bench(world: str = "emoji") -> demo_world.Bench:
    """The world, loaded once. (`cache` on this function would take bench() and bench("emoji") for two.)"""
    return _load(world)


@cache
def _load(world: str) -> demo_world.Bench:
    return demo_world.load(world)


@lru_cache(maxsize=1)
def prepare(asked: Asked) -> Case:
    """The unedited model's pictures, those of the kept prompts by another seed as well, and its answer to attacks."""
    used = bench(asked.world)
    world, prompts = used.world, asked.prompts()
    context = world.encode([prompt.text for prompt in prompts])
    before = asked.draw(world.model, context, demo_world.SEED)
    kept = [i for i, prompt in enumerate(prompts) if prompt.label.startswith(KEPT)]
    other = asked.draw(world.model, context[kept], demo_world.SEED + 1).features if len(kept) > 1 else None
    aims = [attacks.take_aim(used, thing, asked.images) for thing in asked.things if asked.attacked]
    attacked = [attacks.attack(used, world.model, aim, asked.attacked) for aim in aims]
    return Case(prompts, context, before, kept, other, aims, attacked)


def rows(prompts: Sequence[tuple[int, Prompt]], before: Verdict, after: Verdict) -> list[dict]:
    """The rates of every prompt, before and after; `prompts`: each with the place of its picture."""
    places: dict[Prompt, list[int]] = {}
    for i, prompt in prompts:
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


def is_aside(label: str) -> bool:
    """Whether rows of a label are of what else the kept prompts ask for."""
    return label in ASIDE


def also_kept(prompts: Sequence[Prompt]) -> list[tuple[int, Prompt]]:
    """What else the kept prompts ask for: concept, style and background."""
    return [
        (i, Prompt(f"{KEPT}_{erasing.axis(other)}", prompt.text, other))
        for i, prompt in enumerate(prompts)
        if prompt.label.startswith(KEPT)
        for other in prompt.others
    ]


def erase(used: demo_world.Bench, method: str, things: Sequence[str]) -> tuple:
    """The erased MODEL and the reports of a method; its name may end in STACKED."""
    name = method.removesuffix(STACKED)
    steps = [(thing,) for thing in things] if name != method else [tuple(things)]
    plain = name.partition(":")[0]
    if plain not in demo_world.FROM_PICTURES and not pack("trce_ops.methods").METHODS[plain].trains:
        for step in steps:
            used.erase_with(name, step)  # its time is with the everyday captions encoded already, as on every use
    _, deltas, reports = zip(*(used.erase_with(name, step) for step in steps), strict=True)
    return reduce(used.apply, deltas, used.world.model), reports


def measure(job: Job) -> dict:
    """What the --json has of a method on a case, beside job.facts()."""
    with torch.random.fork_rng(devices=[]):
        case, used = prepare(job.asked), bench(job.asked.world)
        model, reports = erase(used, job.method, job.asked.things)
        after = job.asked.draw(model, case.context, demo_world.SEED)
        found = rows(list(enumerate(case.prompts)), case.before, after)
        if not job.asked.lines:
            found += rows(also_kept(case.prompts), case.before, after)
        cost: dict[str, dict] = {}
        for aim, before in zip(case.aims, case.attacked, strict=True):
            attacked = attacks.attack(used, model, aim, job.asked.attacked, before)
            for label, attack in attacked.items():
                found += rows(list(enumerate(attack.prompts)), before[label].verdict, attack.verdict)
                attack.add_cost(cost.setdefault(label, {"queries": 0, "seconds": 0.0}))
            if attacks.RELEARNING in job.asked.attacked:
                steps = attacks.relearning(used, model, aim)
                cost.setdefault(attacks.RELEARNING, {"steps": []})["steps"].append(steps)
    return {
        "seconds": round(sum(sum(report.seconds.values()) for report in reports), 3),
        "evaluations": sum(report.evaluations for report in reports),
        "shift": case.shift(after.features),
        "erase_eval": scores.erase_eval(case, after, job.asked.things),
        **({"attacks": cost} if cost else {}),
        "rows": found,
    }
