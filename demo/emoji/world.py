"""What the emoji world consists of: the concepts, the designers' styles, the backgrounds. No training data needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from common import HERE

SIZE = 64  # pixels
STYLES = ("noto", "twemoji", "3d", "line art")  # one designers' set each
BACKGROUNDS = {
    "white": (1.0, 1.0, 1.0),
    "blue": (0.55, 0.75, 1.0),
    "green": (0.6, 0.9, 0.6),
    "yellow": (1.0, 0.93, 0.5),
    "pink": (1.0, 0.72, 0.82),
    "grey": (0.72, 0.72, 0.72),
}
MASS = {"beer", "wine", "whiskey", "whisky", "coffee", "broccoli", "fire", "pizza", "ice cream", "vino", "java"}


@dataclass(frozen=True)
class Concept:
    code: str  # Unicode code point, hexadecimal
    name: str
    lemma: str  # in WordNet
    sense: int  # of the lemma, from 1

    @property
    def character(self) -> str:
        return chr(int(self.code, 16))


@dataclass(frozen=True)
class Target:
    """A row of splits.tsv: a concept or style to erase, and what takes its place."""

    split: str  # "reported" or "tuning"
    name: str
    safe: str


@cache
def concepts() -> tuple[Concept, ...]:
    """The rows of concepts.txt, in its order: the index of a concept is its row."""
    rows = [line.split() for line in (HERE / "concepts.txt").read_text().splitlines() if line[:1] not in ("", "#")]
    found = []
    for code, name, *rest in rows:
        lemma, _, sense = (rest[0] if rest else name).partition("#")
        found.append(Concept(code, name.replace("_", " "), lemma.lower(), int(sense or 1)))
    return tuple(found)


@cache
def concept_names() -> tuple[str, ...]:
    return tuple(concept.name for concept in concepts())


@cache
def neighbours() -> dict[str, tuple[str, ...]]:
    """The rows of neighbours.tsv: for what is erased, what is near it and must be kept."""
    lines = (HERE / "neighbours.tsv").read_text().splitlines()
    rows = (line.split("\t") for line in lines if line and not line.startswith("#"))
    return {name: tuple(near.split(", ")) for name, near in rows}


@cache
def targets() -> tuple[Target, ...]:
    """The rows of splits.tsv: what tables report, and what settings are chosen on."""
    lines = (HERE / "splits.tsv").read_text().replace(" (style)", "").splitlines()
    return tuple(Target(*line.split("\t")) for line in lines if line and not line.startswith("#"))


def article(noun: str) -> str:
    """The noun with "a" or "an", or bare when it is plural or a substance."""
    plural = noun.endswith("s") and not noun.endswith(("ss", "us", "is", "as")) and " of " not in noun
    if plural or noun.lower() in MASS:
        return noun
    return ("an " if noun[0].lower() in "aeiou" and noun[:3] not in ("uni", "eur") else "a ") + noun
