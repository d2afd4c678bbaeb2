"""Lists out of what a language model answers, however chatty it is.

Where an answer marks its list (a code fence, JSON, a table, bullets, numbers), the list is what it marks; otherwise it
is every line that does not sound like talk. Nothing is refused: an answer without a list gives an empty one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from ..text.concepts import MAX_LINE_LENGTH
from ..text.prompts import mentions

MAX_ANSWER = 100_000  # characters that are read
MAX_ITEMS = 200
MAX_STARTS = 50  # brackets at which JSON may begin

THINKING = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)|\A.*</(?:think|thinking|reasoning)>", re.S | re.I)
FENCE = re.compile(r"^[ \t]*```[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.S | re.M)
MARK = re.compile(
    r"\s*(?:>\s*)*(?:[-*+•·\u2023\u25e6\u25cf\u25aa–—]\s+|\(?\d{1,3}[.):](?!\d)\s*|\(?[a-zA-Z]\)\s+)"
    r"(?:\[[ xX]\]\s+)?"
)
HEADING = re.compile(r"\s*#{1,6}\s|.*[:\uff1a][\s*_]*$")
BOLD = re.compile(r"\s*\*\*[^*]+\*\*\s*")
ARROW = re.compile(r"\s*(?:[-=–—]{1,2}>|\u2192|\u21d2|\u27a1\ufe0f?|\u27f6|\u2794)\s*")
TALK = re.compile(
    r"(?:sure|certainly|of course|absolutely|okay|ok|great|here(?:'s|’s| is| are)|let me|let's|please|note|hope|sorry|"
    r"unfortunately|however|these|those|this|below|above|the following|as an|feel free|if you|in summary|remember|"
    r"i(?:'m|’m|'ve|’ve|'d|’d|'ll|’ll| am| can| cannot| can't| hope| have| will| would| apologi[sz]e))\b",
    re.I,
)
QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "\u300c": "\u300d", "'": "'", "‘": "’"}
TARGETS = {"safe", "target", "to", "replacement", "replace_with", "substitute", "safe_target", "alternative"}
NOTHING = {"nothing", "none", "empty", "n/a", "null"}


@dataclass(frozen=True)
class Item:
    """One line of a list. safe: what the answer puts in its place, None when it does not say; of: which of the names
    that were asked about it stands under."""

    text: str
    safe: str | None = None
    of: str = ""


def read_answer(answer: str, names: Sequence[str] = ()) -> tuple[Item, ...]:
    """The list in an answer, each item once. `names` are what was asked about: they tell a heading from an item."""
    answer = THINKING.sub("", answer[:MAX_ANSWER])
    if fenced := FENCE.findall(answer):
        answer = "\n".join(fenced)
    items: dict[str, Item] = {}
    for item in list(_from_json(answer)) or _from_lines(answer, names):
        items.setdefault(item.text.lower(), item)
    return tuple(items.values())[:MAX_ITEMS]


# JSON


def _from_json(answer: str) -> Iterator[Item]:
    for start in islice(re.finditer(r"[\[{]", answer), MAX_STARTS):
        try:
            data, _ = json.JSONDecoder().raw_decode(answer, start.start())
        except (ValueError, RecursionError):
            continue
        items = list(_walk(data, ""))
        if items:
            yield from items
            return


def _walk(data: object, of: str) -> Iterator[Item]:
    """Strings anywhere in lists and objects; a key is what its list is about, or what its string replaces."""
    if isinstance(data, str):
        yield from _item(data, of)
    elif isinstance(data, list):
        for part in data:
            yield from _walk(part, of)
    elif isinstance(data, dict):
        lowered = {key.lower(): value for key, value in data.items()}
        safe = next((lowered[key] for key in TARGETS if isinstance(lowered.get(key), str)), None)
        if safe is not None:
            text = next((v for k, v in lowered.items() if k not in TARGETS and isinstance(v, str)), "")
            yield from _item(f"{text} -> {safe}", of)
            return
        for key, value in data.items():
            yield from _item(f"{key} -> {value}", of) if isinstance(value, str) else _walk(value, key)


# Lines


def _from_lines(answer: str, names: Sequence[str]) -> Iterator[Item]:
    lines = [" ".join(line.split()) for line in answer.splitlines() if line.strip()]
    if rows := [line.strip().strip("|").split("|") for line in lines if line.strip().startswith("|")]:
        rule = next((i for i, row in enumerate(rows) if all(re.fullmatch(r"\s*:?-+:?\s*", cell) for cell in row)), -1)
        for row in rows[rule + 1 :]:
            yield from _item(" -> ".join(cell.strip() for cell in row[:2]), "")
        return
    marked = any(MARK.match(line) for line in lines)
    plain = [line for line in lines if not HEADING.match(line)]
    # A full stop tells talk from a list, unless the list is one of sentences.
    sentences = 2 * sum(_is_sentence(line) for line in plain) > len(plain)
    about = ""
    for line in lines:
        mark = MARK.match(line)
        text = line[mark.end() :] if mark else line
        if HEADING.match(line) or BOLD.fullmatch(line) and _named(text, names):
            about = _named(text, names)
            continue
        head, colon, tail = text.partition(":")
        if not marked and len(plain) == 1 and (listed := tail if "," in tail else text) and not TALK.match(listed):
            for part in re.split(r"[,;]", listed):
                yield from _item(part, _named(head, names) if colon else about)
        elif not mark and (marked or TALK.match(_tidy(text)) or _is_sentence(line) and not sentences):
            continue
        elif colon and (name := _named(head, names)) and len(_tidy(head).split()) <= len(name.split()) + 3:
            for part in re.split(r"[,;]", tail):  # "gun: pistol, rifle"
                yield from _item(part, name)
        else:
            yield from _item(text, about)


def _is_sentence(line: str) -> bool:
    return line.rstrip(" *_").endswith((".", "!", "?")) and len(line.split()) > 4


def _named(text: str, names: Sequence[str]) -> str:
    """The longest of the names that the text mentions."""
    return max((name for name in names if mentions(text, [name])), key=len, default="")


# One item


def _item(text: str, of: str) -> Iterator[Item]:
    """The item that a text holds, if there is one left when marks, quotes and explanations are gone."""
    text = " ".join(text.split())
    parts = [_tidy(_before_explanation(part)) for part in ARROW.split(text)[:2]]
    if not re.search(r"[^\W\d_]", parts[0]) or any(len(part) > MAX_LINE_LENGTH // 3 for part in parts):
        return
    safe = None if len(parts) == 1 else "" if parts[1].lower() in NOTHING else parts[1]
    yield Item(parts[0], safe, of)


def _before_explanation(text: str) -> str:
    """What is in quotes or in bold, when the text begins so; else what comes before a dash, a colon or a bracket."""
    text = text.strip().lstrip("[{(").strip()
    if bold := re.match(r"(\*\*|__|`)(.+?)\1", text):
        return bold[2]
    if text[:1] in QUOTES and (end := text.find(QUOTES[text[0]], 1)) > 0:
        return text[1:end]
    return re.split(r"\s+[-–—]+\s+|:\s|\s+\(|\s+//", text, maxsplit=1)[0]


def _tidy(text: str) -> str:
    """Without markup, comment signs, quotes and closing punctuation, in single spaces."""
    text = re.sub(r"\*\*|__|[`#|<>\x00-\x1f\x7f-\x9f\ud800-\udfff]", " ", text)
    return " ".join(text.split()).strip(" *_\"“”„«»\u300c\u300d'‘’,;.!?:[]{}\\")
