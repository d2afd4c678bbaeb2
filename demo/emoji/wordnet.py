"""WordNet 3.1's nouns: synsets by lemma, their words, glosses and hypernyms."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from fetch import fetch_all


@dataclass(frozen=True)
class Synset:
    offset: str
    words: tuple[str, ...]
    gloss: str
    hypernyms: tuple[str, ...]  # offsets

    def definitions(self) -> list[str]:
        """The gloss without examples and remarks in brackets, part by part, at most 18 words each."""
        text = re.sub(r"\([^)]*\)", "", self.gloss).split('"')[0]
        parts = [re.sub(r"\s+", " ", part).strip(" :;,") for part in text.split(";")]
        return [_shorten(part) for part in parts if len(part.split()) >= 3]


def _shorten(text: str, words: int = 18) -> str:
    """The first words of a text, without an article or preposition left dangling at the end."""
    kept = text.split()[:words]
    while kept[-1].lower() in {"a", "an", "the", "in", "of", "at", "and", "or", "by", "from", "with", "to"}:
        kept.pop()
    return " ".join(kept)


@cache
def _read() -> tuple[dict[str, Synset], dict[str, list[str]]]:
    folder = fetch_all()["wordnet"] / "dict"
    synsets, index = {}, {}
    for line in (folder / "data.noun").read_text(encoding="utf8").splitlines():
        if line.startswith("  "):  # the licence
            continue
        head, gloss = line.split(" | ", 1)
        fields = head.split()
        count = int(fields[3], 16)
        words = tuple(fields[4 + 2 * i].replace("_", " ") for i in range(count))
        links = 4 + 2 * count
        pointers = [fields[links + 1 + 4 * i : links + 3 + 4 * i] for i in range(int(fields[links]))]
        hypernyms = tuple(target for kind, target in pointers if kind in ("@", "@i"))
        synsets[fields[0]] = Synset(fields[0], words, gloss.strip(), hypernyms)
    for line in (folder / "index.noun").read_text(encoding="utf8").splitlines():
        if not line.startswith("  "):
            fields = line.split()
            index[fields[0]] = fields[-int(fields[2]) :]
    return synsets, index


def synset(lemma: str, sense: int = 1) -> Synset:
    """The noun synset of a lemma (words joined by _); `sense` counts from 1. Raises KeyError or IndexError."""
    synsets, index = _read()
    return synsets[index[lemma][sense - 1]]


def physical_things() -> list[Synset]:
    """All synsets below "physical entity"."""
    synsets, _ = _read()
    known: dict[str, bool] = {}

    def physical(offset: str) -> bool:
        if offset not in known:
            known[offset] = False  # a loop would end here
            entry = synsets[offset]
            known[offset] = entry.words[0] == "physical entity" or any(physical(h) for h in entry.hypernyms)
        return known[offset]

    return [entry for offset, entry in synsets.items() if physical(offset)]


@cache
def _children() -> dict[str, list[str]]:
    below: dict[str, list[str]] = {}
    for offset, entry in _read()[0].items():
        for above in entry.hypernyms:
            below.setdefault(above, []).append(offset)
    return below


def kinds_of(entry: Synset, depth: int = 2) -> list[Synset]:
    """Its hyponyms down to `depth` levels, nearest first."""
    synsets, level, found = _read()[0], [entry.offset], []
    for _ in range(depth):
        level = [child for offset in level for child in _children().get(offset, [])]
        found += [synsets[offset] for offset in level if synsets[offset] not in found]
    return found
