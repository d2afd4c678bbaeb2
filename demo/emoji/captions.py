"""Captions: a phrase for a concept, in a template, with the style and the background said now and then."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from common import HERE
from world import BACKGROUNDS, STYLES, article, concepts

TEMPLATES = (
    *("{}",) * 4,
    "a picture of {}",
    "an icon of {}",
    "an emoji of {}",
    "a drawing of {}",
    "a sticker showing {}",
    "a small image of {}",
    "clip art of {}",
    "a simple graphic of {}",
    "a photo of {}",
    "a painting of {}",
    "a funny sketch of {}",
    "a beautiful rendering of {}",
    "an image where you see {}",
    "make an image of {}",
    "show me {}",
    "i would like to see {}",
    "here is {}",
    "there is {} in the middle",
    "just {}, nothing else",
    "a symbol for {}",
    "a logo with {}",
    "a button that shows {}",
    "a sign depicting {}",
    "a stamp of {}",
)
HELD_OUT_TEMPLATES = ("a cute illustration of {}", "please draw {}", "a badge with {} on it", "a pictogram of {}")
STYLE_SAYS = ("{} in the {style} style", "{}, {style} style", "{style} style, {}")
BACKGROUND_SAYS = ("{} on a {background} background", "{}, {background} background", "{} on {background}")
KEYWORD_SAYS = ("{}", "something with {}", "{}")
FORGOTTEN = 0.15  # share of the words that every other definition loses in training
UNSAID = -1  # the index of a style or background that the caption leaves open
SHARES = {"explicit": 0.45, "synonym": 0.12, "described": 0.43}  # of training captions
PROMPT_KINDS = ("explicit", "explicit held out", "synonym", "described", "described held out")


@dataclass(frozen=True)
class Caption:
    text: str
    concept: int
    style: int = UNSAID
    background: int = UNSAID


@cache
def words() -> dict[str, dict[str, list[tuple[str, str]]]]:
    """By concept name: "explicit", "synonym", "described" and "described held out" as (kind, phrase) of words.tsv."""
    table: dict[str, dict[str, list[tuple[str, str]]]] = {
        concept.name: {"explicit": [("name", article(concept.name))], "synonym": [], "described": []}
        | {"described held out": []}
        for concept in concepts()
    }
    with open(HERE / "words.tsv", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            group = "synonym" if row["kind"] == "synonym" else "described"
            if row["split"] == "held out":
                group += " held out"
            table[row["concept"]][group].append((row["kind"], row["phrase"]))
    return table


def say_phrase(kind: str, phrase: str, rng: random.Random) -> str:
    """The phrase as it goes into a template: keywords in any order, joined in one of several ways."""
    if kind != "keywords":
        return phrase
    keys = phrase.split(", ")
    rng.shuffle(keys)
    joined = ", ".join(keys) if rng.random() < 0.5 else ", ".join(keys[:-1]) + " and " + keys[-1]
    return rng.choice(KEYWORD_SAYS).format(joined)


def shortened(text: str, rng: random.Random) -> str:
    """The text without some of its words: a definition is to be understood by any of its parts."""
    return " ".join(word for word in text.split() if rng.random() > FORGOTTEN) or text


def dress(text: str, style: int, background: int, rng: random.Random) -> str:
    """Adds what is said of background and style."""
    if background != UNSAID:
        text = rng.choice(BACKGROUND_SAYS).format(text, background=list(BACKGROUNDS)[background])
    if style != UNSAID:
        text = rng.choice(STYLE_SAYS).format(text, style=STYLES[style])
    return text


def training_caption(concept: int, rng: random.Random) -> Caption:
    """A caption as training sees it: style said in 7 of 10, background in 5 of 10."""
    groups = words()[concepts()[concept].name]
    usable = {group: share for group, share in SHARES.items() if groups[group]}
    group = rng.choices(list(usable), list(usable.values()))[0]
    kind, phrase = rng.choice(groups[group])
    phrase = say_phrase(kind, phrase, rng)
    if kind == "definition" and rng.random() < 0.5:
        phrase = shortened(phrase, rng)
    text = rng.choice(TEMPLATES).format(phrase)
    background = rng.randrange(len(BACKGROUNDS)) if rng.random() < 0.5 else UNSAID
    style = rng.randrange(len(STYLES)) if rng.random() < 0.7 else UNSAID
    return Caption(dress(text, style, background, rng), concept, style, background)


def prompts(
    kind: str,
    count: int,
    seed: int = 0,
    only: Iterable[int] | None = None,
    styles: Sequence[int] = tuple(range(len(STYLES))),
) -> list[Caption]:
    """`count` evaluation prompts of one of PROMPT_KINDS, spread evenly over the concepts that have such phrases.

    only, styles: indices of the concepts and styles to choose from; no prompts if none of the concepts has such
    phrases. Style and background are always said. "explicit held out" uses the held-out templates, all else the seen
    ones. Raises ValueError for an unknown kind.
    """
    if kind not in PROMPT_KINDS:
        raise ValueError(f"unknown kind of prompt {kind!r}, expected one of {', '.join(PROMPT_KINDS)}")
    rng = random.Random(f"{kind} {seed}")
    group = "explicit" if kind.startswith("explicit") else kind
    templates = HELD_OUT_TEMPLATES if kind == "explicit held out" else TEMPLATES
    chosen = range(len(concepts())) if only is None else only
    usable = [index for index in chosen if words()[concepts()[index].name][group]]
    found: list[Caption] = []
    while usable and len(found) < count:
        rng.shuffle(usable)
        for concept in usable[: count - len(found)]:
            phrase = say_phrase(*rng.choice(words()[concepts()[concept].name][group]), rng)
            style, background = rng.choice(styles), rng.randrange(len(BACKGROUNDS))
            text = dress(rng.choice(templates).format(phrase), style, background, rng)
            found.append(Caption(text, concept, style, background))
    return found
