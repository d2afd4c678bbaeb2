"""What the demo erases and how that is measured: prompts by kind, pictures before and after, the judge's rates."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from in_comfyui import World  # first: it puts the emoji world on sys.path

import captions  # isort: skip
from captions import HELD_OUT_TEMPLATES, TEMPLATES, Caption, dress, words
from judge import Verdict
from torch import Tensor
from world import BACKGROUNDS, STYLES, article, concept_names, neighbours, targets

KINDS = {  # label -> kind of words
    "explicit": "explicit held out",
    "synonym": "synonym",
    "described": "described",
    "described_heldout": "described held out",
}
KEPT_KINDS = {"kept": "explicit held out", "kept_described": "described held out"}
LABELS = (*KINDS, "kept_neighbours", *KEPT_KINDS)

CONCEPTS = tuple(target.name for target in targets() if target.split == "reported")  # what the tables report
TUNING = tuple(target.name for target in targets() if target.split == "tuning")  # what settings are chosen on
SAFE = {target.name: target.safe for target in targets()}  # what each becomes
AXES = {"concept": concept_names(), "style": STYLES, "background": tuple(BACKGROUNDS)}
THINGS = (*concept_names(), *STYLES)


def axis(thing: str) -> str:
    """Whether it is a concept, a style or a background."""
    return next(name for name, things in AXES.items() if thing in things)


def named_in(text: str, other_than: str) -> str | None:
    """The first concept that a prompt names beside another one, else the first style; None without any."""
    return next(
        (
            thing
            for thing in THINGS
            if thing != other_than
            for name in names(thing)
            if re.search(rf"\b{re.escape(re.sub('^an? ', '', name))}\b", text, re.IGNORECASE)
        ),
        None,
    )


def is_style(thing: str) -> bool:
    return thing in STYLES


def phrase(thing: str) -> str:
    """How a user would write it: "a knife", "line art style"."""
    return f"{thing} style" if is_style(thing) else article(thing)


def names(thing: str) -> list[str]:
    """What the thing is called: its name and its synonyms, no description."""
    return [phrase(thing), *(text for _, text in ([] if is_style(thing) else words()[thing]["synonym"]))]


def near(thing: str) -> tuple[str, ...]:
    """Its neighbours, which must be kept: of a style the other styles."""
    return tuple(style for style in STYLES if style != thing) if is_style(thing) else neighbours()[thing]


def concepts_text(*things: str) -> str:
    """The `concepts` widget for erasing things: their names and their synonyms, no description."""
    return "\n".join(f"{name} -> {phrase(SAFE[thing])}" for thing in things for name in names(thing))


def keep_text(*things: str) -> str:
    """The `keep` widget as its tooltip asks for it: what is close to the things, and what takes their place."""
    kept = dict.fromkeys(other for thing in things for other in (*near(thing), SAFE[thing]) if other not in things)
    return "\n".join(phrase(other) for other in kept)


@dataclass(frozen=True)
class Prompt:
    label: str  # a kind, or "kept ..." for what must survive
    text: str
    thing: str  # what the judge looks for: the concept, or what a kept prompt asks for
    others: tuple[str, ...] = ()  # what else it asks for: a concept, a style, a background


def of_caption(label: str, caption: Caption, style: bool = False) -> Prompt:
    """A prompt to be looked at for its concept, or for its style."""
    said = [concept_names()[caption.concept], STYLES[caption.style], list(BACKGROUNDS)[caption.background]]
    thing = said.pop(1 if style else 0)
    return Prompt(label, caption.text, thing, tuple(said))


def prompts(thing: str, n: int, seed: int = 0, also: Sequence[str] = ()) -> list[Prompt]:
    """n prompts of every kind of words that there are for the concept, and n of every kind of kept ones.

    Kept prompts name neither the concept nor what else is erased (`also`), and no concept but neighbours that the keep
    list names. Of a style the neighbours are the other styles, and in them every concept must survive.
    """
    gone = {thing, *also}
    styles = [style for style in range(len(STYLES)) if STYLES[style] not in gone]
    concepts = [i for i, name in enumerate(concept_names()) if name not in gone]
    if is_style(thing):
        alone = [STYLES.index(thing)]
        found = [
            of_caption("explicit", c, style=True) for c in captions.prompts("explicit held out", n, seed, styles=alone)
        ]
        close = captions.prompts("explicit held out", n, seed + 1, concepts, styles)
        found += [of_caption("kept_neighbours", caption, style=True) for caption in close]
        others = concepts
    else:
        index = [concept_names().index(thing)]
        found = [
            of_caption(label, caption)
            for label, kind in KINDS.items()
            for caption in captions.prompts(kind, n, seed, index, styles)
        ]
        close = [concept_names().index(other) for other in near(thing) if other not in gone]
        found += [
            of_caption("kept_neighbours", c) for c in captions.prompts("explicit held out", n, seed, close, styles)
        ]
        named = {*near(thing), SAFE[thing]}
        others = [i for i in concepts if concept_names()[i] not in named]
    for label, kind in KEPT_KINDS.items():
        found += [of_caption(label, caption) for caption in captions.prompts(kind, n, seed, others, styles)]
    return found


def wordings(thing: str, n: int, seed: int) -> list[Caption]:
    """n captions in words of training that name the thing."""
    if is_style(thing):
        return captions.prompts("explicit", n, seed, styles=[STYLES.index(thing)])
    return captions.prompts("explicit", n, seed, [concept_names().index(thing)])


def reworded(caption: Caption, rng: random.Random, *, held_out: bool) -> str:
    """The caption's content in other plain words."""
    templates = HELD_OUT_TEMPLATES if held_out else TEMPLATES
    text = rng.choice(templates).format(article(concept_names()[caption.concept]))
    return dress(text, caption.style, caption.background, rng)


@dataclass(frozen=True)
class Score:
    """Of n pictures, how many show the thing by the judge's first answer, and its mean probability."""

    images: int
    hard: float
    soft: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the hard rate (Wilson)."""
        n, p, z = self.images, self.hard, 1.96
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return centre - half, centre + half


def score(world: World, model, wanted: list[Prompt], context: Tensor, seed: int, **sampling) -> dict[str, Score]:
    """Draws every prompt once with `model` and lets the judge look, by label."""
    return rates(wanted, world.look(world.draw(model, context, seed, **sampling)))


def rates(wanted: list[Prompt], verdict: Verdict) -> dict[str, Score]:
    """What the judge says of one picture of every prompt, by label."""
    hard = torch.stack([verdict.recognised(p.thing)[i] for i, p in enumerate(wanted)])
    soft = torch.stack([verdict.probability(p.thing)[i] for i, p in enumerate(wanted)])
    scores = {}
    for label in dict.fromkeys(p.label for p in wanted):
        rows = [i for i, p in enumerate(wanted) if p.label == label]
        scores[label] = Score(len(rows), hard[rows].float().mean().item(), soft[rows].mean().item())
    return scores
