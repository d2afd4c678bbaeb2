"""Sentences around a concept, so that the map is fitted to the concept in use and not to its bare name.

TRCE builds its pairs by putting a concept and its safe target in the same sentences (section 3.2 of the paper).
The sentences here are our own. No word touches the slot without a space, so that the concept's own tokens stay
what they are when it stands alone (tokens.py finds them by their ids).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .concepts import ConceptPair

PLAIN = ("{}",)
TEMPLATES = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "a drawing of {}",
    "a painting of {}",
    "an image showing {}",
    "a poster with {} on it",
    "a close view of {}",
    "{} on a white background",
    "{} in bright colours",
    "{} in a quiet street at night",
    "{} in the morning light",
    "an old postcard of {} by the sea",
    "a simple picture of {} and nothing else",
)


@dataclass(frozen=True)
class PromptPair:
    """A prompt with the concept and the same prompt with the safe target, with the two texts that differ."""

    source: str
    target: str
    concept: str
    safe: str


def expand(pairs: Iterable[ConceptPair], templates: Sequence[str] = TEMPLATES) -> tuple[PromptPair, ...]:
    """Put every pair into every template, each prompt pair once, in a fixed order.

    An empty safe target has the empty prompt as target: "a photo of " is no sentence to aim at.
    """
    expanded = (
        PromptPair(t.format(p.concept), t.format(p.safe) if p.safe else "", p.concept, p.safe)
        for p in pairs
        for t in templates
    )
    return tuple(dict.fromkeys(expanded))
