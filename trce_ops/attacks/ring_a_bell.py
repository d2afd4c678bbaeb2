"""Ring-A-Bell style: add the direction of the concept to the conditioning of a benign prompt.

The direction is the mean difference between prompts with the concept and the same prompts without it (Tsai et al.,
ICLR 2024, arXiv 2310.10012, equation 1, before its search for words). It uses only the text encoder and never queries
the model. It tests whether the model still responds to that direction.
"""

from __future__ import annotations

from torch import Tensor

from ..tuning.text_batch import Texts


def concept_direction(concept: Texts, without: Texts) -> Texts:
    """Mean difference (1, L, d), and (1, p) of pooled vectors, between prompts with the concept and without it.

    Both have n prompts, in the same order.
    """

    def mean(z: Tensor, z_without: Tensor) -> Tensor:
        return (z - z_without).mean(0, keepdim=True)

    pooled = None if concept.pooled is None else mean(concept.pooled, without.pooled)
    return Texts(mean(concept.sequence, without.sequence), pooled)


def add_direction(texts: Texts, direction: Texts, scale: float) -> Texts:
    """c + scale * direction, on the sequence and on the pooled vector."""
    pooled = None if texts.pooled is None else texts.pooled + scale * direction.pooled
    return Texts(texts.sequence + scale * direction.sequence, pooled)
