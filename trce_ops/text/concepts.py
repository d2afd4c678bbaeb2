"""What to erase and what to keep, as people type it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

MAX_LINES = 256
MAX_LINE_LENGTH = 300
ARROW = "->"
NO_TEXT = ("Cc", "Cs")  # Unicode's control characters, and halves of characters
OR = "|"  # between names of one concept
COMMENT = re.compile(r"(^|\s)#.*")  # not the # inside a word, as in "C#"


class ConceptError(ValueError):
    """The text of the concepts or keep widget cannot be used."""


@dataclass(frozen=True)
class ConceptPair:
    """One concept and what is to appear in its place; an empty `safe` means nothing in particular."""

    concept: str
    safe: str = ""


def _lines(text: str, widget: str) -> list[tuple[int, str]]:
    """Numbered lines with `#` comments, blank lines and needless spaces taken out."""
    lines = [(number, " ".join(COMMENT.sub("", line).split())) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line]
    if len(lines) > MAX_LINES:
        raise ConceptError(f"'{widget}' has {len(lines)} lines; at most {MAX_LINES} are accepted. Shorten '{widget}'.")
    for number, line in lines:
        if len(line) > MAX_LINE_LENGTH:
            raise ConceptError(
                f"Line {number} of '{widget}' is {len(line)} characters long; at most {MAX_LINE_LENGTH} are accepted. "
                "Shorten that line."
            )
        if found := next((c for c in line if unicodedata.category(c) in NO_TEXT), None):
            raise ConceptError(
                f"Line {number} of '{widget}' holds the character U+{ord(found):04X}, which is no text. Delete it."
            )
    return lines


def parse_concepts(text: str) -> tuple[ConceptPair, ...]:
    """Read the concepts widget: `concept -> safe` per line, or `concept` alone for an empty safe target.

    `gun | pistol -> an umbrella` is short for a line for each name.
    A concept that is listed twice with the same target counts once.
    Raises ConceptError, naming the line, for no concepts at all, a missing concept, two arrows,
    a concept mapped onto itself, two targets for one concept, too much text, or characters that are no text.
    """
    pairs: dict[str, ConceptPair] = {}
    for number, line in _lines(text, "concepts"):
        parts = [part.strip() for part in line.split(ARROW)]
        if len(parts) > 2:
            raise ConceptError(
                f"Line {number} of 'concepts' has more than one '{ARROW}'; write 'concept {ARROW} safe'."
            )
        for concept in (" ".join(name.split()) for name in parts[0].split(OR)):
            pair = ConceptPair(concept, *parts[1:])
            key = concept.lower()
            if not key:
                raise ConceptError(
                    f"Line {number} of 'concepts' has no concept before '{ARROW}'; write 'concept {ARROW} safe'."
                    if not parts[0]
                    else f"Line {number} of 'concepts' has nothing on one side of '{OR}'; write a name there."
                )
            if key == pair.safe.lower():
                raise ConceptError(
                    f"Line {number} of 'concepts' maps '{concept}' onto itself; name another safe target."
                )
            if pairs.setdefault(key, pair).safe.lower() != pair.safe.lower():
                raise ConceptError(
                    f"Line {number} of 'concepts' gives '{concept}' a second safe target; keep one line for each "
                    "concept."
                )
    if len(pairs) > MAX_LINES:
        raise ConceptError(
            f"'concepts' names {len(pairs)} concepts; at most {MAX_LINES} are accepted. Shorten 'concepts'."
        )
    if not pairs:
        raise ConceptError("'concepts' is empty; write one concept per line, such as 'Van Gogh -> a painting'.")
    return tuple(pairs.values())


def parse_keep(text: str) -> tuple[str, ...]:
    """Read the keep widget: one caption per line, each once, in order. Raises ConceptError on too much text."""
    return tuple(dict.fromkeys(line for _, line in _lines(text, "keep")))


def format_concepts(pairs: Iterable[ConceptPair]) -> str:
    """The pairs as parse_concepts reads them, one per line."""
    return "\n".join(f"{pair.concept} {ARROW} {pair.safe}" if pair.safe else pair.concept for pair in pairs)
