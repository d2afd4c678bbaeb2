"""Extends lists with suggestions of a language model and with nearest neighbours.

The user's lines always win: a suggestion never changes a line, never erases a safe target or a kept thing, and only
fills the remaining lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..text.concepts import MAX_LINES, ConceptPair
from ..text.spelling import bare, fold, mentions, same_name
from .llm_answer import Item


def target_of(item: Item, pairs: Sequence[ConceptPair]) -> str:
    """The safe target of an item: what the answer says, else that of the concept it belongs to, else the one that all
    pairs share, else empty."""
    if item.safe is not None:
        return item.safe
    for pair in pairs:
        if item.of and (mentions(item.of, [pair.concept]) or mentions(pair.concept, [item.of])):
            return pair.safe
    shared = {pair.safe for pair in pairs}
    return shared.pop() if len(shared) == 1 else ""


def widen(
    pairs: Sequence[ConceptPair], additions: Iterable[ConceptPair], keep: Sequence[str] = ()
) -> tuple[ConceptPair, ...]:
    """The additions that can join the pairs, each once, in order.

    Leaves out what is already there, safe targets and kept things in any spelling, and what is mapped onto itself.
    Another spelling of a concept is an addition: it may have tokens of its own.
    """
    taken = {same_name(pair.concept) for pair in pairs}
    needed = {bare(fold(text)) for text in (*(pair.safe for pair in pairs), *keep)}
    added: dict[str, ConceptPair] = {}
    for pair in additions:
        key = same_name(pair.concept)
        if key not in taken and bare(fold(pair.concept)) not in needed and key != same_name(pair.safe):
            added.setdefault(key, pair)
    return tuple(added.values())[: max(0, MAX_LINES - len(pairs))]


def neighbour_pairs(
    pairs: Sequence[ConceptPair], found: Sequence[Sequence[tuple[str, float]]]
) -> dict[ConceptPair, float]:
    """A pair for each neighbour, with the safe target of its concept, and their similarity; most similar first.

    A word near several concepts goes to the most similar one.
    """
    near = [(similarity, word, pair.safe) for pair, words in zip(pairs, found) for word, similarity in words]
    best: dict[str, tuple[float, str]] = {}
    for similarity, word, safe in sorted(near, key=lambda item: -item[0]):
        best.setdefault(word, (similarity, safe))
    return {ConceptPair(word, safe): similarity for word, (similarity, safe) in best.items()}


def widen_keep(
    keep: Sequence[str], additions: Iterable[str], concepts: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keep lines and the additions, without those that mention a concept: keeping them would protect it."""
    kept = {same_name(line): line for line in keep if not mentions(line, concepts)}
    added: dict[str, str] = {}
    for line in additions:
        if not mentions(line, concepts) and same_name(line) not in kept:
            added.setdefault(same_name(line), line)
    return tuple(kept.values()), tuple(added.values())[: max(0, MAX_LINES - len(kept))]
