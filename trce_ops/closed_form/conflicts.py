"""What the lists ask for that cannot all be had, in sentences for the report.

None of it is an error: the closed form is a least-squares problem, and where two pairs pull one embedding to two places
it goes between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..text.concepts import ConceptPair
from ..text.prompts import bare, mentions


def conflicts(concepts: Sequence[ConceptPair], keep: Sequence[str], moved: Mapping[str, float]) -> tuple[str, ...]:
    """One sentence for each conflict. `moved`: per concept, where there was any way to go (report.mean_by)."""
    return (*_contradictions(concepts), *_chains(concepts), *_kept(concepts, keep), *_unmoved(concepts, moved))


def _contradictions(concepts: Sequence[ConceptPair]) -> Iterator[str]:
    seen: dict[str, ConceptPair] = {}
    for pair in concepts:
        other = seen.setdefault(_key(pair.concept), pair)
        if _key(other.safe) != _key(pair.safe):
            yield (
                f"'{other.concept}' and '{pair.concept}' are the same thing and are to be read as two things, "
                f"'{other.safe}' and '{pair.safe}': they go between the two. Keep one of the lines."
            )


def _chains(concepts: Sequence[ConceptPair]) -> Iterator[str]:
    erased = {_key(pair.concept): pair.concept for pair in concepts}
    for pair in concepts:
        if pair.safe and (other := erased.get(_key(pair.safe))):
            yield (
                f"'{pair.concept}' is read as '{pair.safe}', and '{other}' is erased too: prompts for "
                f"'{pair.concept}' go on to draw '{pair.safe}'. Name another safe target to be rid of it."
            )


def _kept(concepts: Sequence[ConceptPair], keep: Sequence[str]) -> Iterator[str]:
    for line in keep:
        for pair in concepts:
            if mentions(line, [pair.concept]):
                yield (
                    f"'{line}' is to be kept and has '{pair.concept}' in it, which is to be erased: the erasure is "
                    "weaker for it. Take it out of 'keep' if the concept survives."
                )


def _unmoved(concepts: Sequence[ConceptPair], moved: Mapping[str, float]) -> Iterator[str]:
    for pair in concepts:
        if pair.concept not in moved:
            yield (
                f"'{pair.concept}' is not erased: to the text encoder it is the same as "
                f"{repr(pair.safe) if pair.safe else 'no words at all'}. Name another safe target."
            )


def _key(text: str) -> str:
    return bare(text).lower()
