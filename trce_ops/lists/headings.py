"""The headings of a language model's answer: under which of them the list stands that was asked for.

An answer with one heading is one list. Of an answer with several, only what stands under a heading that names a concept
asked about, or that is known to name the list, is wanted: any other may be a list of what has to stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..text.concept_line import clean
from ..text.marks import without_bullet
from ..text.spelling import mentions

MAX_HEADING = 200  # characters of a heading that is known to name a list
HEADING = re.compile(
    r"#{1,6}\s.*|.*[:\uff1a][\s*_]*|\[{1,2}(?:[^\[\]\"'\u201c\u201d]|(?<=\w)'(?=\w))*\]{1,2}|[\u3010\u3014\u300a].*[\u3011\u3015\u300b]"
)  # also [a section] of INI and TOML, and East Asian brackets
TALK = re.compile(
    r"(?i)(?:i|i'm|i\u2019m|here|sure|certainly|of course|okay|let me|below|hope|the user|note|these|the following)\b.*"
    r"|(?:assistant|user|system|thought|thinking|output|answer|result|list)"
)
BOLD = re.compile(r"(\*\*|__)[^*_]+\1")
SENTENCE = re.compile(r".*[.!?\u3002\uff01\uff1f][\s*_\"'\u201d\u2019)]*")

# Words in the heading of a list of what stays, and of what goes, in the languages of the pack, and words that say
# nothing beside them. SIGNS are found without spaces around them.
_WORDS = json.loads((Path(__file__).parent / "data" / "headings.json").read_text(encoding="utf-8"))
KEPT_WORDS, ERASED_WORDS, OTHER_WORDS = ({*_WORDS[f"{kind}_words"].split()} for kind in ("kept", "erased", "other"))
KEPT_SIGNS, ERASED_SIGNS, OTHER_SIGNS = (_WORDS[f"{kind}_signs"].split() for kind in ("kept", "erased", "other"))

NOT = {*"not never nicht kein keine ne pas".split()}


@dataclass(frozen=True)
class Place:
    """Where a line of an answer stands. heading: whether it is one itself; of: the one of the names asked about that
    its heading names; wanted: whether the list under its heading is the one asked for."""

    heading: bool
    of: str
    wanted: bool


def is_talk(line: str) -> bool:
    """Whether the line ends or begins like a sentence."""
    return bool(SENTENCE.fullmatch(line.strip()) or TALK.fullmatch(line.strip()))


def places(lines: Sequence[str], names: Sequence[str] = (), captions: bool = False) -> list[Place]:
    """The place of every line. names: what was asked about; captions: whether the list is of what stays."""
    marked = [without_bullet(clean(line)) != clean(line) for line in lines]
    headings = [_is_heading(i, lines, marked) for i in range(len(lines))]
    # Talk that another heading follows is none, and lines before the first heading are a list too
    followed = [*headings[1:], False]
    counted = [
        i for i, found in enumerate(headings) if found and not (followed[i] and TALK.fullmatch(lines[i].strip()))
    ]
    items = [i for i, found in enumerate(headings) if not found and marked[i] >= any(marked) and not is_talk(lines[i])]
    several = len(counted) + bool(counted and items and items[0] < counted[0]) > 1
    found, of, wanted = [], "", True
    for line, heading in zip(lines, headings):
        if heading:
            named = names if mentions(line, names) else ()
            of = max((name for name in named if mentions(line, [name])), key=len, default="")
            wanted = _wanted(line, captions, several, bool(of))
        found.append(Place(heading, of, wanted))
    return found


def _is_heading(i: int, lines: Sequence[str], marked: Sequence[bool]) -> bool:
    """Whether line i is a heading: by its marks, its words, or because a list follows that it is no part of."""
    line = lines[i].strip()
    if HEADING.fullmatch(line):
        return True
    if marked[i]:
        return False
    if _is_named(line, True) or _is_named(line, False):
        return True
    bold = BOLD.fullmatch(line) and not all(BOLD.fullmatch(other.strip()) for other in lines[i + 1 : i + 2])
    return marked[i + 1 : i + 2] == [True] if any(marked) else bool(bold)


def _wanted(line: str, captions: bool, several: bool, about: bool) -> bool:
    if _mentions(line, kept=not captions):
        return False
    return not several or about or _is_named(line, captions)


def _is_named(line: str, kept: bool) -> bool:
    """Whether the line consists of nothing but words of the heading of one list: of what stays, or of what goes."""
    if len(line) > MAX_HEADING or not _mentions(line, kept):
        return False
    words, signs = (KEPT_WORDS, KEPT_SIGNS) if kept else (ERASED_WORDS, ERASED_SIGNS)
    if kept and NOT & {*_words(line)}:
        words = words | ERASED_WORDS  # "Do not erase"
    known = re.compile("|".join(sorted((*signs, *OTHER_SIGNS), key=len, reverse=True)))
    return all(_one(word) & (words | OTHER_WORDS) or not known.sub("", word) for word in _words(line))


def _mentions(line: str, kept: bool) -> bool:
    """Whether a word of the heading of one list is in the line."""
    words, signs = (KEPT_WORDS, KEPT_SIGNS) if kept else (ERASED_WORDS, ERASED_SIGNS)
    return any(_one(word) & words for word in _words(line)) or any(sign in line for sign in signs)


def _words(line: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", line.casefold().replace("\u2019", "'").replace("n't", " not"))


def _one(word: str) -> set[str]:
    """The word, and what it may be the plural of."""
    return {word, word.removesuffix("s")}
