"""What adversarial vectors are: a word in the place of the concept, or, where the text encoder is not differentiable, a
displacement of the prompt's embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from ..text.tokens import Ids
from .data import Contexts
from .soft_prompts import SoftEncoder, put_at
from .text_batch import Texts

SIZES = (0.5, 2.0)  # of a new word, as a multiple of the vocabulary's
ROWS = 1024  # embeddings of kept prompts that displacements are mixed from
DISPLACEMENTS = (0.5, 1.5)  # the size of a new displacement, 1 = as kept text varies; the second is the largest ever


class Words:
    """Vectors of a word in the place of the concept. `prompts`: of every unwanted prompt its ids and the concept's
    positions. A word starts from a random one of the vocabulary."""

    rate = 1e-2  # for vectors whose elements are of the order of 0.01

    def __init__(self, encoder: SoftEncoder, prompts: Sequence[tuple[Ids, Sequence[int]]]):
        self.encoder, self.prompts = encoder, prompts
        self.vocabulary = encoder.words()[0].tolist()

    def start(self, generator: Generator) -> Tensor:
        token = self.vocabulary[int(torch.randint(len(self.vocabulary), (), generator=generator))]
        return _between(SIZES, generator) * self.encoder.look_up([token]).detach()

    def write(self, vector: Tensor, prompt: int) -> Texts:
        return self.encoder.encode([put_at(vector, *self.prompts[prompt])])


class Embeddings:
    """Displacements u of an unwanted prompt's embeddings, where these differ from the safe prompt's.

    So that they go where text goes, displacements are mixed from the embeddings z_j of kept prompts:

        u = 1/sqrt(n) sum_j v_j (z_j - mean z)          for v ~ N(0, 1) as large as kept text varies, in every direction

    The rows of CLIP between those of T5 have coefficients of their own, and so has the pooled vector.
    """

    rate = 0.1

    def __init__(self, contexts: Contexts, generator: Generator):
        self.neg, self.safe = contexts.neg, contexts.safe
        kept = contexts.safe if contexts.keep is None else contexts.keep
        z = kept.sequence.flatten(0, 1)
        clip, padding = _is_clip(z), ~z.any(1)
        self.mixed = [_some(z, which, generator) for which in (~clip, clip & ~padding)]
        if kept.pooled is not None:
            self.mixed.append(_some(kept.pooled, torch.ones(len(kept), dtype=torch.bool), generator))

    def start(self, generator: Generator) -> Tensor:
        k = sum(map(len, self.mixed))
        return _between(DISPLACEMENTS, generator) * torch.randn(1, k, generator=generator)

    def write(self, vector: Tensor, prompt: int) -> Texts:
        v = vector * (DISPLACEMENTS[1] / vector.detach().square().mean().sqrt()).clamp(max=1)
        parts = v.split([len(rows) for rows in self.mixed], 1)
        of_text, of_clip, *of_pooled = (part @ rows for part, rows in zip(parts, self.mixed))  # (1, d) each, or (1, p)
        base = self.neg[torch.tensor([prompt])]
        u = torch.where(_is_clip(base.sequence)[..., None], of_clip, of_text) * self._differs(prompt)[:, None]
        pooled = None if base.pooled is None else base.pooled + of_pooled[0]
        return replace(base, sequence=base.sequence + u, pooled=pooled)

    def _differs(self, prompt: int) -> Tensor:  # (L,)
        """Where the unwanted prompt is not padding and the safe one has another embedding."""
        neg, safe = (texts.sequence[prompt] for texts in (self.neg, self.safe))
        safe = pad(safe, (0, 0, 0, len(neg)))[: len(neg)]
        return ((neg - safe).norm(dim=1) > 1e-3 * neg.norm(dim=1)) & neg.any(1)


def _between(sizes: tuple[float, float], generator: Generator) -> Tensor:
    least, most = sizes
    return least + (most - least) * torch.rand((), generator=generator)


def _is_clip(rows: Tensor) -> Tensor:  # (..., d) -> (...)
    """Rows of CLIP among those of T5 are zero beyond its width."""
    return rows[..., -1] == 0


def _some(z: Tensor, which: Tensor, generator: Generator) -> Tensor:  # (n, d), (n,) -> (at most ROWS, d)
    """Some of the rows around their mean, scaled so that their mixture by N(0, 1) has the covariance of all."""
    places = which.nonzero()[:, 0]
    few = z[places[torch.randperm(len(places), generator=generator)[:ROWS]]]
    return (few - few.mean(0)) / math.sqrt(len(few)) if len(few) else few
