"""Reads the list in a language model's answer, and says what of the answer it does not understand.

Understood are lines as the widgets have them, also with bullets or numbers and in one code fence, and JSON: a list of
texts, of pairs, or of objects with fields of KEYS, one such object, and one in every line. In a list with bullets or
numbers, lines without one are talk; elsewhere a line that ends or begins like a sentence is. Not understood are tables,
CSV, YAML, bullets under a bullet, heads of columns, and, of several lists, those whose heading names neither a concept
asked about nor what was asked for (headings.py). Nothing is guessed, because a misread line would be erased silently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..text.concept_line import NOTHING, LineError, clean, content, read_captions, read_pair, read_safe
from ..text.marks import without_bullet
from .fields import CAPTION, CONCEPT, KEYS, SAFE, field, in_columns, is_head
from .headings import is_talk, places

MAX_ANSWER = 100_000  # characters that are read
MAX_LINES = 2000
MAX_ITEMS = 200
MAX_REST, MAX_SHOWN = 50, 120  # pieces that are not understood and shown, and characters of each

THINKING = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)|\A.*</(?:think|thinking|reasoning)>", re.S | re.I)
FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^\n]*\n(.*?)(?:^[ \t]*(?:```|~~~)[ \t]*$|\Z)", re.S | re.M)
JSON = re.compile(r'[\[{](?=[\[{\s]{0,100}")')
BRACKET = re.compile(r"[\[\]{}]")  # beside a JSON value: it is part of something else, or one of several
COLUMNS = re.compile(r"\S(?:\t| {2,})\S|\\[\"']|[\u25c1<]/?think\W")  # also JSON in JSON, and marks of a model's own
NO_ITEM = re.compile(r"(?i)no (?:synonyms?|results?|items?|other|others|further|more|additional|such)\b")


@dataclass(frozen=True)
class Item:
    """One line of a list. safe: the safe target, None when the answer names none; of: the one of the names asked about
    that the line stands under."""

    text: str
    safe: str | None = None
    of: str = ""


def read_answer(answer: str, names: Sequence[str] = (), captions: bool = False) -> tuple[Item, ...]:
    """The items of an answer, each once. names: what was asked about; captions: for the keep list."""
    return tuple(_Reader(answer, names, captions).items.values())


def not_understood(answer: str, names: Sequence[str] = (), captions: bool = False) -> tuple[str, ...]:
    """The pieces of an answer that read_answer leaves out, for the report."""
    rest = list(_Reader(answer, names, captions).rest)
    more = len(rest) - MAX_REST
    return (*rest[:MAX_REST], f"and {more} more") if more > 0 else tuple(rest)


class _Reader:
    """The items of an answer in order, each once, and the pieces that are not understood."""

    def __init__(self, answer: str, names: Sequence[str], captions: bool):
        self.names, self.captions = names, captions
        self.wanted = CAPTION if captions else CONCEPT
        self.items: dict[str, Item] = {}
        self.rest: dict[str, None] = {}
        text = "\n".join(answer[:MAX_ANSWER].splitlines()[:MAX_LINES])
        if len(answer) > MAX_ANSWER or answer.count("\n") > MAX_LINES:
            self.reject(f"what comes after the first {MAX_ANSWER} characters or {MAX_LINES} lines")
        for thought in THINKING.finditer(text):
            if not thought[0].endswith(">"):  # without an end
                self.reject(thought[0])
        text = THINKING.sub("", text)
        fences = list(FENCE.finditer(text))
        if len(fences) == 1:
            before = text[: fences[0].start()]
            self.reject_lines(FENCE.sub("", text))
            text = fences[0][1]
            if not self.is_wanted_after(before):
                return self.reject_lines(text)
        found = JSON.search(text)
        head = text[: found.start() + 1] if found else text
        if len(fences) > 1 or any(map(in_columns, head.splitlines())):
            self.reject_lines(text)
        elif found and not BRACKET.search(text[: found.start()]) and self.is_wanted_after(text[: found.start()]):
            self.reject_lines(text[: found.start()])
            self.read_json(text[found.start() :])
        elif found:
            self.reject_lines(text)
        else:
            self.read_lines(text, sure=bool(fences))

    def reject(self, piece: object) -> None:
        text = piece if isinstance(piece, str) else json.dumps(piece, ensure_ascii=False)
        text = " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * MAX_SHOWN]).split())
        if text:
            self.rest[text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"] = None

    def reject_lines(self, text: str) -> None:
        for line in text.splitlines():
            if re.search(r"\w", line):
                self.reject(line)

    def is_wanted_after(self, text: str) -> bool:
        """Whether a list that follows the text, in a fence or as JSON, is the one asked for."""
        return places([*_lines(text), "- x"], self.names, self.captions)[-1].wanted

    def line(self, line: object, of: str = "") -> None:
        """A line as the widgets have them."""
        try:
            text = content(_one_line(line))
            if not text:
                raise LineError
            names, safe = (read_captions(text), None) if self.captions else read_pair(text)
            self.add(names, safe, of)
        except LineError:
            self.reject(line)

    def pair(self, concept: object, safe: object) -> None:
        """A concept and its safe target, None or "" for an empty one."""
        try:
            names, other = read_pair(content(_one_line(concept)))
            target = content("" if safe is None else _one_line(safe))
            if other is not None or self.captions:
                raise LineError
            self.add(names, "" if target.lower() in NOTHING else read_safe(target))
        except LineError:
            self.reject([concept, safe])

    def add(self, names: Sequence[str], safe: str | None, of: str = "") -> None:
        for name in names:
            if not _is_item(name) or safe and is_head(name, safe):
                self.reject(f"{name} -> {safe}" if safe else name)
            elif len(self.items) >= MAX_ITEMS and name.lower() not in self.items:
                self.reject(f"{name} (after the first {MAX_ITEMS})")
            elif self.items.setdefault(name.lower(), Item(name, safe, of)).safe != safe:
                self.reject(f"{name} -> {safe or ''} (a second time)")

    def read_lines(self, text: str, sure: bool) -> None:
        """Lines as the widgets have them. sure: all of them belong to the list."""
        lines = _lines(text)
        marked = [without_bullet(clean(line)) != clean(line) for line in lines]
        if len(lines) > 1 and all("|" in line for line in lines):
            return self.reject_lines(text)  # a table
        parent = None  # how far the first item since the last heading is indented
        for line, mark, place in zip(lines, marked, places(lines, self.names, self.captions)):
            indent, line = len(line) - len(line.lstrip()), line.strip()
            if place.heading:
                parent = None
                if not place.of and not line.startswith("#") or not place.wanted:
                    self.reject(line)
                continue
            parent = indent if parent is None else parent
            stray = any(marked) and not mark
            below = mark or not any(marked)  # in a list without bullets, what is indented may be a safe target
            talk = not sure and not mark and is_talk(line)
            if not place.wanted or stray or below and indent > parent or COLUMNS.search(line) or talk:
                self.reject(line)
            else:
                self.line(line.rstrip(" .;,"), place.of)

    def read_json(self, text: str) -> None:
        """One JSON value and the talk after it, or an object a line."""
        lines, decode = _lines(text), json.JSONDecoder(object_pairs_hook=_object)
        try:
            if len(lines) > 1 and all(re.fullmatch(r"\s*\{.*\},?", line) for line in lines):
                return self.read_list([decode.decode(line.rstrip(",")) for line in lines])
            value, end = decode.raw_decode(text)
            if BRACKET.search(text[end:]):
                raise ValueError
            self.read_list(value if isinstance(value, list) else [value])
        except (ValueError, RecursionError):
            return self.reject(text)
        self.reject_lines(text[end:])

    def read_list(self, rows: list) -> None:
        """Texts, pairs of texts, or objects with fields of KEYS, but no mixture of them."""
        if all(isinstance(row, str) for row in rows):
            for row in rows:
                self.line(row)
        elif all(isinstance(row, list) and len(row) == 2 for row in rows):
            for concept, safe in rows:
                self.pair(concept, safe)
        elif all(isinstance(row, dict) for row in rows):
            for row in rows:
                self.read_fields(row)
        else:
            self.reject(rows)

    def read_fields(self, record: dict) -> None:
        """An object with a concept or a caption, perhaps its safe target, and what is left out."""
        texts = [value for key, value in record.items() if field(key) in self.wanted]
        safe = [value for key, value in record.items() if field(key) in SAFE]
        if len(texts) != 1 or len(safe) > 1 or not {*map(field, record)} <= KEYS:
            return self.reject(record)
        if safe:
            self.pair(texts[0], safe[0])
        else:
            self.line(texts[0])
        for key in record:
            if field(key) not in self.wanted | SAFE:
                self.reject(f"the field '{key}'")


def _object(fields: list[tuple[str, object]]) -> dict[str, object]:
    """Raises ValueError for a field that occurs twice, of which JSON would keep the last."""
    if len(dict(fields)) < len(fields):
        raise ValueError
    return dict(fields)


def _lines(text: str) -> list[str]:
    """The lines with words in them."""
    return [line[:2000].rstrip() for line in text.splitlines() if re.search(r"\w", line)]


def _one_line(value: object) -> str:
    if not isinstance(value, str) or len(value.splitlines()) > 1:
        raise LineError
    return value


def _is_item(name: str) -> bool:
    """Whether the name has letters, and is not "None" or "No synonyms found"."""
    return bool(re.search(r"[^\W\d_]", name)) and name.lower() not in NOTHING and not NO_ITEM.match(name)
