"""What to erase and what to keep, as people type it: one concept, or one caption, per line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .concept_line import ARROW, LineError, clean, content, read_captions, read_pair, read_safe, write_text
from .concept_line import MAX_LINE_LENGTH as MAX_LINE_LENGTH
from .marks import SPLIT
from .spelling import UNSPACED

MAX_LINES = 256
# Signs that are read as others: full-width ones, an ideographic space and one without a break
WIDE = "[\uff02-\uff0b\uff0d-\uff19\uff1c-\uff1e\uff20-\uff5e\u3000\u00a0]"
SIDES = re.compile(rf"{SPLIT}|[-=\uff0d\uff1d]+[>\uff1e]|[|\uff5c]")
# For lines that may have been meant as more than one name: words (in scripts without spaces three
# letters, or a run of katakana) and marks
WORD = rf"[\u30a1-\u30fe]+|[{UNSPACED}]{{1,3}}|[^\W{UNSPACED}]+(?:[-'\u2019.][^\W{UNSPACED}]+)*"
MARK = r"[,;:~\u2026\u3001\uff0c\uff1b]|[/+]\s?\w|\.\."
AND = re.compile(rf"(?i)\s(?:and|und|et|e|y|&)\s|[{UNSPACED}]\s[{UNSPACED}]|[{UNSPACED}].*[\u2460-\u2473]")
NUMBERED = re.compile(r"\s*(\d{1,3})[.)]\s+(?=[^\W\d])")
MANY_WORDS = 5
Read = TypeVar("Read")


class ConceptError(ValueError):
    """The text of the concepts or keep widget cannot be used."""


@dataclass(frozen=True)
class ConceptPair:
    """A concept and its safe target; an empty `safe` stands for the empty prompt."""

    concept: str
    safe: str = ""


def _read_lines(text: str, widget: str, read: Callable[[str], Read]) -> list[tuple[int, Read]]:
    """What `read` makes of every line that is more than a comment, with the line's number."""
    found, count = [], 0
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if line := content(line):
                count += 1
                if count <= MAX_LINES:
                    found.append((number, read(line)))
        except LineError as error:
            raise ConceptError(f"Line {number} of '{widget}' {error}") from None
    if count > MAX_LINES:
        raise ConceptError(f"'{widget}' has {count} lines; at most {MAX_LINES} are accepted. Shorten '{widget}'.")
    return found


def parse_concepts(text: str, *, optional: bool = False) -> tuple[ConceptPair, ...]:
    """Read the concepts widget: `concept -> safe` per line, or `concept` alone for an empty safe target.

    `gun | pistol -> an umbrella` and `{gun|pistol} -> an umbrella` are short for a line for each name.
    concept_line.py says what else is understood: other arrows, weights, quotes, bullets and comments.
    A concept that is listed twice with the same target counts once. optional: there may be none.
    Raises ConceptError, naming the line and what to write, for what is not understood, a missing concept, two arrows,
    a concept mapped onto itself, two targets for one concept, too much text, or control characters.
    """
    pairs: dict[str, ConceptPair] = {}
    for number, (names, safe) in _read_lines(text, "concepts", read_pair):
        line = f"Line {number} of 'concepts'"
        for concept in names:
            pair = ConceptPair(concept, safe or "")
            key = concept.lower()
            if key == pair.safe.lower():
                raise ConceptError(f"{line} maps '{concept}' onto itself; name another safe target.")
            if pairs.setdefault(key, pair).safe.lower() != pair.safe.lower():
                raise ConceptError(f"{line} gives '{concept}' a second safe target; keep one line for each concept.")
    if len(pairs) > MAX_LINES:
        raise ConceptError(
            f"'concepts' names {len(pairs)} concepts; at most {MAX_LINES} are accepted. Shorten 'concepts'."
        )
    if not pairs and not optional:
        raise ConceptError("'concepts' is empty; write one concept per line, such as 'Van Gogh -> a painting'.")
    return tuple(pairs.values())


def unlike_prompts(text: str) -> list[str]:
    """A sentence for the report where the concepts escape what ComfyUI's prompts do not: there only brackets are."""
    escaped = re.findall(r"\\([^\s\w()\\])", text)
    return [
        f"In 'concepts' a backslash makes '{sign}' plain text; in ComfyUI's prompts it stays a backslash. Write "
        "the name there without it."
        for sign in dict.fromkeys(escaped)
    ]


def full_width(text: str) -> dict[str, str]:
    """The words of the concepts with signs that were read as others, and what they were read as."""
    read = {part for _, (names, safe) in _read_lines(text, "concepts", read_pair) for part in (*names, safe or "")}
    words = re.findall(rf"\S*(?:{WIDE}\S*)+(?:[ \t]\S*{WIDE}\S*)*", "\n".join(map(str.strip, SIDES.split(text))))
    return {word: clean(word) for word in words if re.search(r"\w", word) and any(clean(word) in part for part in read)}


def read_as_one(text: str) -> list[str]:
    """A sentence for the report about lines that may have been meant as more than one name."""
    found = [
        name
        for _, (names, safe) in _read_lines(text, "concepts", read_pair)
        for name in names
        if AND.search(name) or safe is None and (len(re.findall(WORD, name)) >= MANY_WORDS or re.search(MARK, name))
    ]
    return [f"Read as one concept: {_shown(found)}"] if found else []


def left_out_numbers(text: str) -> list[str]:
    """A sentence for the report about numbers before names that do not count the lines: "2. Weltkrieg"."""
    lines = [content(line) for line in text.splitlines()]
    found, before = [], 0
    for line in filter(None, lines):
        number = NUMBERED.match(line)
        if number and int(number[1]) not in (1, before + 1):
            found.append(line)
        before = int(number[1]) if number else 0
    return [f"Read without the number: {_shown(found)}"] if found else []


def _shown(names: Sequence[str]) -> str:
    return ", ".join([f"'{name[:60]}'" for name in names[:5]] + (["..."] if len(names) > 5 else []))


def parse_keep(text: str) -> tuple[str, ...]:
    """Read the keep widget: one caption per line, each once, in order.

    Weights, quotes, bullets and comments are understood as in the concepts widget; commas are part of a caption.
    Raises ConceptError, naming the line, for an arrow, other syntax that is not understood, and too much text.
    """
    lines = _read_lines(text, "keep", read_captions)
    captions = tuple(dict.fromkeys(caption for _, captions in lines for caption in captions))
    if len(captions) > MAX_LINES:
        raise ConceptError(f"'keep' has {len(captions)} captions; at most {MAX_LINES} are accepted. Shorten 'keep'.")
    return captions


def parse_safe(text: str) -> str:
    """Read a widget that holds one safe target; "" stands for the empty prompt. Raises ConceptError."""
    text = " ".join(text.split())
    if re.search(SPLIT, text):
        raise ConceptError("'safe' has an arrow in it; write what to draw instead, alone.")
    try:
        return read_safe(content(text))
    except LineError as error:
        raise ConceptError(f"'safe' {error}") from None


def format_concepts(pairs: Iterable[ConceptPair]) -> str:
    """The pairs as parse_concepts reads them, one per line."""
    return "\n".join(
        write_text(pair.concept) + (f" {ARROW} {write_text(pair.safe, read_safe, pair.safe)}" if pair.safe else "")
        for pair in pairs
    )


def format_keep(captions: Iterable[str]) -> str:
    """The captions as parse_keep reads them, one per line."""
    return "\n".join(write_text(caption, read_captions, (caption,)) for caption in captions)
