"""Collects the items of a list from texts, JSON values and records, and what of them is not understood.

A record is an object with named fields: {"concept": "gun", "safe": "umbrella"}, a row of a table, an entry of LECO's
YAML. Fields whose names say what they are for are read; nothing is guessed from the others.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from ..text.concept_line import NOTHING, LineError, content, read_captions, read_pair, read_safe
from ..text.spelling import mentions

MAX_ITEMS = 200
MAX_REST = 50  # pieces that are shown
MAX_SHOWN = 120  # characters of a piece that is not understood

# Names of fields, without the endings that ENDING takes off; where a record has several, the first one counts.
ERASE = (
    *("concept", "erase", "erased", "to_erase", "concept_to_erase", "remove", "unsafe", "original", "source", "from"),
    *("old", "before", "bad", "harmful", "input", "find", "avoid", "banned"),
)
NEUTRAL = (
    *("name", "term", "word", "keyword", "phrase", "text", "caption", "prompt", "sentence", "item", "entity", "object"),
    *("label", "class", "key"),
)
VAGUE = {*NEUTRAL[1:], "from", "old", "before", "bad", "harmful", "input", "find"}  # could be concepts themselves
ALIASES = ("synonym", "alias", "variant", "variation")  # read beside the concept
EITHER = ("replace", "target")  # with a safe target beside it the concept, with a concept beside it the safe target
SAFE = (
    *("safe", "safe_alternative", "safe_target", "alternative", "replacement", "replace_with", "replaced_by", "with"),
    *("substitute", "substitution", "surrogate", "anchor", "guide", "mapping", "to", "new", "after", "good"),
    *("harmless", "output", "destination", "value", "use", "instead", *EITHER),
)
KEEP = ("keep", "kept", "preserve", "retain")
OTHER = (
    *("description", "definition", "explanation", "reason", "note", "comment", "category", "type", "kind", "id"),
    *("index", "number", "severity", "level", "score", "weight", "similarity", "likeness", "confidence", "language"),
    *("title", "topic", "example", "count", "message", "response", "negative", "color", "colour", "size", "priority"),
)
LECO = (
    *("positive", "unconditional", "neutral", "action", "guidance_scale", "resolution", "dynamic_resolution"),
    *("batch_size", "dynamic_crops", "multiplier"),
)
KNOWN = {*ERASE, *NEUTRAL, *ALIASES, *SAFE, *KEEP, *OTHER, *LECO}
ENDING = re.compile(r"_(?:concept|text|prompt|word|term|name|phrase)$")


@dataclass(frozen=True)
class Item:
    """One line of a list. safe: what the answer puts in its place, None when it does not say; of: which of the names
    that were asked about it stands under."""

    text: str
    safe: str | None = None
    of: str = ""


def field(name: str) -> str:
    """The name of a field in the form that the lists above have: "Safe Concepts" is "safe"."""
    name = re.sub(r"[\s_-]+", "_", name.strip().lower())
    name = re.sub(rf"^(?:safe|harmless|suggested)_(?={'|'.join(SAFE)})", "", name)
    for form in (name, name.removesuffix("es"), name.removesuffix("s")):
        for short in (form, ENDING.sub("", form)):
            if short in KNOWN:
                return short
    return name


class Reader:
    """Items in the order they are read, each once, and the pieces that are not understood."""

    def __init__(self, names: Sequence[str], captions: bool):
        self.names, self.captions = names, captions
        self.items: dict[str, Item] = {}
        self.rest: dict[str, None] = {}
        self.unread: Counter[str] = Counter()  # fields of records that say nothing about what to erase
        self.concepts = (*KEEP, *NEUTRAL) if captions else (*ERASE, *NEUTRAL, *ALIASES, *EITHER)
        self.others = {*SAFE, *OTHER, *LECO, *((*ERASE, *ALIASES) if captions else KEEP)} - {*self.concepts}

    def reject(self, piece: object) -> None:
        text = piece if isinstance(piece, str) else json.dumps(piece, ensure_ascii=False)
        if text := _shown(text):
            self.rest[text] = None

    def about(self, text: str) -> str:
        """The longest of the names asked about that the text mentions."""
        return max((name for name in self.names if mentions(text, [name])), key=len, default="")

    def line(self, line: str, of: str = "") -> None:
        """A line as the widgets have them."""
        if len(lines := line.splitlines()) > 1:
            return self.rows(lines, of)
        try:
            if not (text := content(line)):
                raise LineError
            self._add(*((read_captions(text), None) if self.captions else read_pair(text)), of)
        except LineError:
            self.reject(line)

    def pair(self, concept: str, safe: str | None, of: str = "") -> None:
        """A concept and its safe target, None or "" for nothing in its place."""
        try:
            names, said = read_pair(content(concept))
            target = content(safe or "")
            if said is not None or self.captions or len((concept + (safe or "")).splitlines()) != 1:
                raise LineError
            self._add(names, "" if target.lower() in NOTHING else read_safe(target), of)
        except LineError:
            self.reject([concept, safe])

    def _add(self, names: Sequence[str], safe: str | None, of: str) -> None:
        for name in names:
            item = Item(name, safe, of)
            if not re.search(r"[^\W\d_]", name):
                self.reject(name)
            elif len(self.items) >= MAX_ITEMS and name.lower() not in self.items:
                self.reject(f"{name} (after the first {MAX_ITEMS})")
            elif self.items.setdefault(name.lower(), item).safe != safe:
                self.reject(f"{name} -> {safe or ''} (a second time)")

    def value(self, data: object, of: str = "") -> None:
        """A JSON value."""
        if isinstance(data, list):
            self.rows(data, of)
        elif isinstance(data, dict):
            self.record(data, of)
        else:
            self.reject(data)

    def rows(self, rows: Sequence[object], of: str = "") -> None:
        """The elements of a list: lines, pairs of texts, or records that share their fields."""
        lists = [row for row in rows if isinstance(row, list)]
        alike = len({len(row) for row in lists}) <= 1 and all(isinstance(x, str) for row in lists for x in row[:1])
        fields = Counter(key for row in rows if isinstance(row, dict) for key in row)
        columns = {key for row in rows if isinstance(row, dict) for key in row if len(row) > 1 or fields[key] > 1}
        for number, row in enumerate(rows):
            if isinstance(row, str):
                self.line(row, of)
            elif isinstance(row, dict):
                self.record(row, of, columns)
            elif isinstance(row, list) and alike and len(row) == 1:
                self.line(row[0], of)
            elif isinstance(row, list) and alike and len(row) == 2 and isinstance(row[1], str | None):
                if number or field(row[0]) not in self.concepts or field(row[1] or "") not in SAFE:  # a table's head
                    self.pair(row[0], row[1], of)
            else:
                self.reject(row)

    def record(self, record: Mapping[str, object], of: str = "", columns: Sequence[str] = ()) -> None:
        """An object: fields by name, lists by heading, numbered items, or concepts with their safe targets.

        columns: fields that other records have too, which are no concepts themselves.
        """
        keys = {field(key): key for key in record}
        if len(keys) < len(record):
            return self.reject(record)
        if "target" in keys and keys.keys() & {*LECO}:
            return self._leco({name: record[key] for name, key in keys.items()})
        safe = next((name for name in SAFE if name in keys), None)
        concept = next((name for name in self.concepts if name in keys and name != safe), None)
        alone = concept and not safe and isinstance(record[keys[concept]], str)
        if alone and (concept in NEUTRAL and keys.keys() - KNOWN or concept in VAGUE and keys[concept] not in columns):
            self.reject(record)  # {"text": "a page", "gun": "an umbrella"}
        elif concept:
            self._fields(record, keys, concept, safe, of)
        elif any(isinstance(value, list | dict) for value in record.values()):
            self._groups(record, of)
        elif all(key.strip().isdecimal() for key in record) and all(isinstance(v, str) for v in record.values()):
            self.rows(list(record.values()), of)
        elif keys.keys() & KNOWN or record.keys() & {*columns} or self.captions:
            self.reject(record)
        else:
            for key, value in record.items():
                if isinstance(value, str | None):
                    self.pair(key, value, of)
                else:
                    self.reject({key: value})

    def _fields(self, record: Mapping, keys: Mapping[str, str], concept: str, safe: str | None, of: str) -> None:
        read = {concept, safe, *(name for name in ALIASES if name in keys and not self.captions)}
        values = record[keys[concept]]
        texts = list(values) if isinstance(values, list) else [values]
        if all(isinstance(text, str) for text in texts):
            targets = record[keys[safe]] if safe else None
            targets = targets if isinstance(targets, list) and len(targets) == len(texts) else [targets] * len(texts)
            for name in read - {concept, safe} if len(texts) == 1 else ():
                more = record[keys[name]]
                texts += more if isinstance(more, list) else [more]
                targets += targets[:1] * (len(texts) - len(targets))
            for text, target in zip(texts, targets):
                if not isinstance(text, str) or not isinstance(target, str | None):
                    self.reject({concept: text, safe or "safe": target})
                elif safe:
                    self.pair(text, target, of)
                else:
                    self.line(text, of)
        elif not safe and isinstance(values, list | dict):
            self.value(values, of)
        else:
            self.reject(record)
        self.unread.update(key for name, key in keys.items() if name not in read and record[key] not in (None, ""))

    def _groups(self, record: Mapping[str, object], of: str) -> None:
        for key, value in record.items():
            name, texts = field(key), isinstance(value, list) and any(isinstance(x, str) for x in value)
            if isinstance(value, dict) and name not in KNOWN:
                known = {field(k) for k in value} & {*SAFE, *ALIASES} and not {field(k) for k in value} & {*ERASE}
                self.record({"concept": key, **value}, of or self.about(key)) if known else self.reject({key: value})
            elif isinstance(value, list | dict) and (name not in self.others or name in SAFE and not texts):
                self.value(value, of or self.about(key))
            else:
                self.reject({key: value})

    def _leco(self, entry: Mapping[str, object]) -> None:
        target, safe = entry["target"], entry.get("neutral") or ""
        if entry.get("action", "erase") == "erase" and entry.get("positive") in (None, "", target):
            if isinstance(target, str) and isinstance(safe, str):
                return self.pair(target, safe)
        self.reject(dict(entry))

    def not_understood(self) -> tuple[str, ...]:
        fields = [f"{_shown(key)} ({count} times)" for key, count in self.unread.items()]
        left_out = len(self.rest) - MAX_REST
        more = [f"and {left_out} more"] if left_out > 0 else []
        return (*islice(self.rest, MAX_REST), *more, *fields[:MAX_REST])


def _shown(text: str) -> str:
    """The text in one line that can be printed, cut where it is long."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * MAX_SHOWN]).split())
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
