"""What the demo erases and how that is measured: prompts by kind, pictures before and after, the judge's rates."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from captions import (
    BACKGROUNDS,
    COLOUR_SOURCES,
    COLOURS,
    SHAPE_HEADS,
    SHAPES,
    STYLE_SOURCES,
    STYLES,
    evaluation_captions,
    synonyms,
)
from judge import Verdict
from torch import Tensor
from world import World

KINDS = {  # label -> (kind of words, held out of training)
    "explicit": ("explicit", True),
    "synonym": ("synonym", True),
    "implicit": ("implicit", False),
    "implicit_heldout": ("implicit", True),
}

CONCEPTS = ("star", "heart", "crescent", "cross", "striped", "red")  # what the tables report
TUNING = ("hourglass", "square", "outlined", "green")  # what defaults were chosen on, and nothing else
SAFE = {  # what each becomes
    "star": "circle",
    "heart": "square",
    "crescent": "triangle",
    "cross": "circle",
    "striped": "solid",
    "red": "blue",
    "hourglass": "triangle",
    "square": "heart",
    "outlined": "striped",
    "green": "purple",
}


def siblings(thing: str) -> tuple[str, ...]:
    """All things of the same sort: the shapes, the colours or the styles."""
    return next(names for names in (SHAPES, COLOURS, STYLES) if thing in names)


def phrase(thing: str, words: str) -> str:
    """How a user would write it: "a star", "red"."""
    if thing not in SHAPES:
        return words
    return f"{'an' if words[0] in 'aeiou' or words.startswith('hour') else 'a'} {words}"


def concepts_text(*things: str) -> str:
    """The `concepts` widget for erasing things: their names and their synonyms, no implicit phrasing."""
    return "\n".join(
        f"{phrase(thing, words)} -> {phrase(thing, SAFE[thing])}"
        for thing in things
        for words in (thing, *synonyms(thing))
    )


def keep_text(*things: str) -> str:
    """The `keep` widget: everything else that the demo world has a name for."""
    others = [other for names in (SHAPES, COLOURS, STYLES) for other in names if other not in things]
    return "\n".join(phrase(other, other) for other in others)


@dataclass(frozen=True)
class Prompt:
    label: str  # a kind, or "kept ..." for what must survive
    text: str
    thing: str  # what the judge looks for: the concept, or what a kept prompt asks for


def prompts(thing: str, n: int, seed: int = 0, also: Sequence[str] = ()) -> list[Prompt]:
    """n prompts of every kind for the concept, and n kept ones in plain and in held-out implicit words.

    also: what else is erased, which the kept ones name nowhere either.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for label, (kind, held) in KINDS.items():
        texts, _ = evaluation_captions(thing, kind, n, generator, held=held)
        found += [Prompt(label, text, thing) for text in texts]
    gone = {thing, *also}
    others = [other for other in siblings(thing) if other not in gone]
    for label, kind in (("kept", "explicit"), ("kept_implicit", "implicit")):
        for i in range(n):
            other = others[i % len(others)]
            text = kept_caption(gone, other, kind, generator)
            found.append(Prompt(label, text, other))
    return found


def kept_caption(gone: set[str], other: str, kind: str, generator: torch.Generator) -> str:
    """A caption that asks for `other` and names what is gone nowhere."""
    while True:
        (text,), said = evaluation_captions(other, kind, 1, generator, held=True)
        shown = (SHAPES[said.shape], COLOURS[said.colour], STYLES[said.style])
        if gone.isdisjoint(shown):
            return text


def named(thing: str, text: str) -> bool:
    """Whether a prompt names a thing: in plain words, by a synonym or by what it is likened to."""
    likened = {**SHAPE_HEADS, **COLOUR_SOURCES, **STYLE_SOURCES}[thing]
    words = (thing, *synonyms(thing), *(re.sub("^an? ", "", head) for head in likened))
    return any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in words)


def asked_for(text: str, other_than: str) -> str | None:
    """The thing that a prompt names beside a concept, one of its siblings if there is one; None without any."""
    candidates = (*siblings(other_than), *SHAPES, *COLOURS, *STYLES)
    return next((thing for thing in candidates if thing != other_than and named(thing, text)), None)


def other_axes(text: str, thing: str) -> list[tuple[str, str]]:
    """(axis, name) of all that a caption names in plain words, but for the axis of `thing`."""
    axes = {"shape": SHAPES, "colour": COLOURS, "style": STYLES, "background": BACKGROUNDS}
    words = text.split()
    return [(axis, name) for axis, names in axes.items() if thing not in names for name in names if name in words]


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
