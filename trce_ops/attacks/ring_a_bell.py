"""Ring-A-Bell style: add the direction of the concept to the conditioning of a benign prompt.

The direction is the mean difference between prompts with the concept and the same prompts without it (Tsai et al.,
ICLR 2024, arXiv 2310.10012, equation 1, without the search for words that follows). It needs the text encoder alone and
shows whether the model still responds to that direction.
"""

from __future__ import annotations

from ..tuning.text_batch import Texts


def concept_direction(concept: Texts, without: Texts) -> Texts:
    """Mean difference (1, L, d), and (1, p) of pooled vectors, between prompts with the concept and without it.

    Both have n prompts, in the same order.
    """
    return concept.each(lambda z, z_without: (z - z_without).mean(0, keepdim=True), without)


def add_direction(texts: Texts, direction: Texts, scale: float) -> Texts:
    """c + scale * direction, on the sequence and on the pooled vector."""
    return texts.each(lambda z, shift: z + scale * shift, direction)
