"""Finds requests in the concepts and the keep list that contradict each other, as sentences for the report.

None of them is an error: the closed form is a least-squares problem, so an embedding that is pulled to two places ends
up between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..text.concepts import ConceptPair
from ..text.spelling import mentions, same_name


def conflicts(concepts: Sequence[ConceptPair], keep: Sequence[str], moved: Mapping[str, float]) -> Iterator[str]:
    """One sentence for each conflict. `moved` lacks concepts that equal their targets."""
    seen: dict[str, ConceptPair] = {}
    for pair in concepts:
        other = seen.setdefault(same_name(pair.concept), pair)
        if same_name(other.safe) != same_name(pair.safe):
            yield (
                f"'{other.concept}' and '{pair.concept}' name the same thing and have two safe targets, "
                f"'{other.safe}' and '{pair.safe}': the result is between the two. Remove one of the lines."
            )
    for pair in concepts:
        if pair.safe and (other := seen.get(same_name(pair.safe))):
            yield (
                f"'{pair.concept}' is replaced by '{pair.safe}', and '{other.concept}' is erased too: prompts for "
                f"'{pair.concept}' still draw '{pair.safe}'. Choose another safe target to get rid of it."
            )
        if mentions(pair.safe, [pair.concept]):
            yield (
                f"The safe target of '{pair.concept}', '{pair.safe}', names it too, so that it is still drawn: text "
                "encoders do not understand 'no' or 'without'. Leave the target empty, or name something else."
            )
    for line in keep:
        for pair in concepts:
            if mentions(line, [pair.concept]):
                yield (
                    f"'{line}' in 'keep' mentions the concept '{pair.concept}', which weakens the erasure. Remove it "
                    "from 'keep' if the concept survives."
                )
    for pair in concepts:
        if pair.concept not in moved:
            yield (
                f"'{pair.concept}' is not erased: the text encoder gives it the same embeddings as "
                f"{repr(pair.safe) if pair.safe else 'the empty prompt'}. Choose another safe target."
            )
