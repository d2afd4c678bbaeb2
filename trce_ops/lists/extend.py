"""Lists made longer: what a language model or the neighbours of a text encoder add to what somebody wrote.

What was written always wins: an addition never changes a line, never maps a safe target or a kept thing, and only fills
what room is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..text.concepts import MAX_LINES, ConceptPair
from ..text.prompts import mentions, same_name
from .llm_answer import Item


def target_of(item: Item, pairs: Sequence[ConceptPair]) -> str:
    """What is to appear in place of an item of an answer.

    What the answer says; else the safe target of the concept that the item stands under; else the one that all pairs
    share; else nothing in particular.
    """
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

    Left out are those already there, safe targets, those mapped onto themselves, and what is kept.
    """
    taken = {same_name(text) for pair in pairs for text in (pair.concept, pair.safe)} | set(map(same_name, keep))
    added: dict[str, ConceptPair] = {}
    for pair in additions:
        key = same_name(pair.concept)
        if key not in taken and key != same_name(pair.safe):
            added.setdefault(key, pair)
    return tuple(added.values())[: max(0, MAX_LINES - len(pairs))]


def neighbour_pairs(
    pairs: Sequence[ConceptPair], found: Sequence[Sequence[tuple[str, float]]]
) -> dict[ConceptPair, float]:
    """The neighbours of every pair, with its safe target, and how alike they are; the most alike first.

    A word that several concepts have for a neighbour goes to the one it is most alike.
    """
    near = ((likeness, ConceptPair(word, pair.safe)) for pair, words in zip(pairs, found) for word, likeness in words)
    best: dict[str, tuple[float, ConceptPair]] = {}
    for likeness, pair in sorted(near, key=lambda item: -item[0]):
        best.setdefault(pair.concept, (likeness, pair))
    return {pair: likeness for likeness, pair in best.values()}


def widen_keep(
    keep: Sequence[str], additions: Iterable[str], concepts: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what was written and can stay, what joins it): neither mentions a concept, for that would keep what is to go."""
    kept = {same_name(line): line for line in keep if not mentions(line, concepts)}
    added: dict[str, str] = {}
    for line in additions:
        if not mentions(line, concepts) and same_name(line) not in kept:
            added.setdefault(same_name(line), line)
    return tuple(kept.values()), tuple(added.values())[: max(0, MAX_LINES - len(kept))]
