"""Sentences around a concept, so that the map is fitted to the concept in use and not only to its name.

TRCE builds its pairs by putting a concept and its safe target in the same sentences (section 3.2 of the paper).
The sentences here are our own: some go around the concept as written, some put an adjective before it, because without
those "a star" is erased and "a striped red star on a wall" is not. Every slot is surrounded by spaces, so that the
concept's tokens are the same as when it stands alone (tokens.py finds them by their ids).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .captions import read_lines
from .concepts import ConceptPair
from .learned_words import NAME
from .spelling import bare, mentions

MAX_COMPANY = 80  # bytes of what stands beside a concept
PLAIN = ("{}",)
TEMPLATES = read_lines("templates.txt")  # {}: the text as written; {bare}: without its article


@dataclass(frozen=True)
class PromptPair:
    """A prompt with the concept and the same prompt with the safe target."""

    source: str
    target: str
    concept: str  # as the user wrote it
    keyword: str  # as it stands in the source
    safe_keyword: str  # as it stands in the target


def fill(template: str, text: str) -> tuple[str, str]:
    """The template with the text in its slot, and the text as it stands there."""
    slotted = bare(text) if "{bare}" in template else text
    return template.format(slotted, bare=slotted), slotted


def is_quality(concept: str) -> bool:
    """Whether a concept is written without an article, as colours and styles are. Learned words are things."""
    return bare(concept) == concept and not NAME.fullmatch(concept)


def in_company(others: Iterable[str]) -> list[str]:
    """Templates with the concept beside other things: "a dog on a beach, {}", with spaces around its slot.

    Long texts are left out, because a prompt has a limit.
    """
    short = (other.replace("{", "{{").replace("}", "}}") for other in others if len(other.encode()) <= MAX_COMPANY)
    return [template for other in short for template in (f"{other}, {{}}", f"{{}} , {other}")]


def sentences(concepts: Sequence[str], templates: bool) -> list[str]:
    """The templates that do not mention a concept themselves, because their target would keep it."""
    return [t for t in (TEMPLATES if templates else PLAIN) if not mentions(fill(t, "")[0], concepts, plurals=False)]


def expand(pairs: Iterable[ConceptPair], templates: Sequence[str] = TEMPLATES) -> tuple[PromptPair, ...]:
    """Put every pair into every template, each prompt pair once, in a fixed order.

    The target of an empty safe target is the empty prompt, because "a photo of " is not a sentence.
    """
    expanded = []
    for pair in pairs:
        for template in templates:
            source, keyword = fill(template, pair.concept)
            target, safe_keyword = fill(template, pair.safe) if pair.safe else ("", "")
            expanded.append(PromptPair(source, target, pair.concept, keyword, safe_keyword))
    return tuple(dict.fromkeys(expanded))
