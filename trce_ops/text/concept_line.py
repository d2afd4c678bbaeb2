r"""Parses one line of the concepts or keep widget: the text, and the syntax people add to it.

People write lines like prompts and lists, with weights, quotes, bullets, comments and different arrows. All of these
are understood and never become part of a concept. A line with a character that could be either text or syntax is
refused, with what to write instead, because a misread concept would be erased silently.

A backslash makes the next character plain text, as in prompts: `saber \(fate\)` names "saber (fate)".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from . import marks

MAX_LINE_LENGTH = 300
MAX_COMMENT = 10_000  # characters of a line with its comment
MAX_ALTERNATIVES = 256
ARROW = "->"
OR = "|"  # between names of one concept
# Safe targets that mean an empty one
NOTHING = {"nothing", "none", "n/a", "null", "nil", "empty", "empty prompt", '""', "''", "delete", "remove", "erase"}
NOTHING |= {"\u2205", "\u65e0", "\u7121", "\u306a\u3057", "\uc5c6\uc74c", "rien", "nichts", "nada", "niente"}
OTHER_BARS = str.maketrans(dict.fromkeys("\u00a6\u2502\u2503\u2223", OR))

NO_TEXT = ("Cc", "Cs")  # Unicode's control characters, and halves of characters
JOINERS = "\u200c\u200d"  # format characters that words and emoji are made with
TAGS = range(0xE0020, 0xE0080)  # of flags
SIGN = "(?:[^\\w\\s\U00020000-\U0010ffff]|_)"
ESCAPED = 0xF0000  # added to the code of an escaped character, so that no pattern matches it


class LineError(ValueError):
    """A line that cannot be read. The message continues "Line 3 of 'concepts' ...": it says what to write."""


def clean(text: str) -> str:
    """The text in composed characters and single spaces, without invisible ones; a tab stays one.

    Full-width letters and signs, as East Asian keyboards type them, become the ordinary ones, because text encoders do
    not know the full-width forms. The punctuation of East Asian sentences stays.
    """
    kept = (
        chr(ord(c) - 0xFEE0) if "\uff01" <= c <= "\uff5e" and c not in "\uff01\uff0c\uff1a\uff1b\uff1f" else c
        for c in text
        if unicodedata.category(c) != "Cf" or c in JOINERS or ord(c) in TAGS
    )
    text = unicodedata.normalize("NFC", "".join(kept)).translate(OTHER_BARS)
    return re.sub(r"\s+", lambda space: "\t" if "\t" in space[0] else " ", text).strip()


def content(line: str) -> str:
    """The line without comment, with two spaces where it has many: they may stand between two columns.

    Raises LineError for one that is too long or holds control characters.
    """
    text = "  ".join(map(clean, marks.COLUMNS.split(line)))
    if len(text) <= MAX_COMMENT:
        text = marks.COMMENT.sub("", text).strip()
    if len(text) > MAX_LINE_LENGTH:
        raise LineError(f"is {len(text)} characters long; at most {MAX_LINE_LENGTH} are accepted. Shorten that line.")
    for c in text:
        if unicodedata.category(c) in NO_TEXT and c != "\t" or ord(c) >= ESCAPED:
            raise LineError(f"holds the character U+{ord(c):04X}, which is not text. Delete it.")
    return text


def read_pair(line: str) -> tuple[tuple[str, ...], str | None]:
    """(names of the concept, safe target) of a line without comment; the target is None where there is no arrow.

    Raises LineError.
    """
    sides = re.split(marks.SPLIT, _marked(line))
    if len(sides) > 2:
        raise LineError(f"has more than one '{ARROW}'; write 'concept {ARROW} safe'.")
    if not sides[0].strip():
        raise LineError(f"has no concept before '{ARROW}'; write 'concept {ARROW} safe'.")
    names = tuple(_name(name, is_concept=True) for name in _alternatives(sides[0]))
    if len(sides) == 1:
        return names, None
    return names, _safe(sides[1])


def read_safe(text: str) -> str:
    """A safe target that stands alone, "" for none. Raises LineError."""
    return _safe(_marked(text))


def _safe(text: str) -> str:
    if not text.strip():
        return ""
    safe, *others = _alternatives(text)
    if others:
        raise LineError(f"has more than one safe target after '{ARROW}'; write one.")
    return "" if _plain(safe).lower().removesuffix(".") in NOTHING else _name(safe, is_concept=False)


def read_captions(line: str) -> tuple[str, ...]:
    """The captions of a line of the keep widget: one, or one for each alternative. Raises LineError."""
    if re.match(r"\s*[\[{]\s*[\"']", line):
        raise LineError("is a list in JSON; write one caption per line, without brackets and quotation marks.")
    if marks.SEVERAL.search(line):
        raise LineError("has several captions in it; write a line for each.")
    text = _marked(line.replace("  ", " "))
    if re.search(marks.SPLIT, text):
        raise LineError("has an arrow in it; captions to keep have no safe target. Write one caption per line.")
    captions = _alternatives(text)
    for caption in captions:
        _refuse(caption, (*marks.REFUSED, *marks.REFUSED_IN_CAPTIONS))
    return tuple(_plain(caption.replace("\t", " ")) for caption in captions)


def write_text(text: str, read: Callable[[str], object] = read_pair, wanted: object = None) -> str:
    """Quote or escape the text, with as few marks as possible, so that `read` returns `wanted`."""
    wanted = ((text,), None) if wanted is None else wanted
    brackets = re.sub(r"[()\[\]{}|\\]", r"\\\g<0>", text)
    every = re.sub(SIGN, r"\\\g<0>", text)
    for written in (text, brackets, f'"{text}"', f'"{brackets}"', every, f'"{every}"'):
        try:
            if content(written) == written and read(written) == wanted:
                return written
        except LineError:
            pass
    return text


def _marked(line: str) -> str:
    """The line without bullet and quotes, with escaped and quoted characters protected from the patterns."""
    text = re.sub(rf"\\({SIGN})", lambda escaped: chr(ESCAPED + ord(escaped[1])), line)
    text = marks.without_bullet(text)

    def quoted(found: re.Match) -> str:
        inner = (found[2] or found[3] or found[4]).replace("  ", " ")
        if re.search(marks.SPLIT, inner):
            return found[0]
        return found[1] + re.sub(r"[^\s()\[\]{}|\U00020000-\U0010ffff]", lambda c: chr(ESCAPED + ord(c[0])), inner)

    return marks.QUOTED.sub(quoted, text).rstrip(" \t,;")


def _plain(text: str) -> str:
    return "".join(chr(ord(c) - ESCAPED) if ord(c) >= ESCAPED else c for c in text)


def _alternatives(text: str) -> tuple[str, ...]:
    """Every text that `{a|b}` and `a | b` stand for, without weights; each once."""
    texts = [text]
    while any(found := [re.search(r"\{([^{}]*)\}", text) for text in texts]):
        texts = [
            text[: brace.start()] + inner + text[brace.end() :] if brace else text
            for text, brace in zip(texts, found)
            for inner in (brace[1].split(OR) if brace else ("",))
        ]
        if len(texts) > MAX_ALTERNATIVES:
            raise LineError(f"stands for more than {MAX_ALTERNATIVES} concepts; write fewer alternatives in braces.")
    names = [_unweighted(name) for text in texts for name in _unweighted(text).split(OR)]
    if not all(names):
        raise LineError(f"has nothing on one side of '{OR}'; write a name there." if len(names) > 1 else "is empty.")
    return tuple(dict.fromkeys(names))


def _unweighted(text: str) -> str:
    """The text without weights: `(x:1.3)`, `((x))` and `[[x]]` anywhere, `(x)` and `[x]` around the whole."""

    def inner(found: re.Match) -> str:
        return next(group for group in found.groups() if group is not None)

    before = ""
    while before != text:
        before = text
        for pattern in (marks.WEIGHT, marks.EMPHASIS):
            text = pattern.sub(inner, text)
        if whole := marks.WRAPPED.fullmatch(text):
            text = inner(whole)
    return text.strip().rstrip(" ,;")


def _name(text: str, is_concept: bool) -> str:
    _refuse(text, marks.REFUSED)
    _refuse(text, (*marks.REFUSED_IN_NAMES, *(marks.REFUSED_IN_CONCEPTS if is_concept else ())))
    if is_concept and marks.LIST.search(text) and not marks.TAGGED.match(text):
        raise LineError(
            f"has several names in '{_plain(text)[:40]}'; write '{OR}' between names, or put the whole in quotation "
            "marks where it is one concept."
        )
    return _plain(re.sub(r"(?<=\w\w)[.\u3002]$", "", text))  # the end of a sentence


def _refuse(text: str, rules: Sequence[tuple[str, str]]) -> None:
    for pattern, says in rules:
        if re.search(pattern, text):
            raise LineError(f"{says} ('{_plain(text)[:40]}').")
