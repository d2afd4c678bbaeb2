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
ROWS = 1024  # differences between kept prompts that displacements are mixed from
DISPLACEMENTS = (0.5, 1.5)  # root mean square of a new displacement's coefficients; the second is the most they get


class Words:
    """Vectors of a word in the place of the concept. `prompts`: of every unwanted prompt its ids and the concept's
    positions. A word starts from a random one of the vocabulary."""

    rate = 1e-2  # for vectors whose elements are of the order of 0.01

    def __init__(self, encoder: SoftEncoder, prompts: Sequence[tuple[Ids, Sequence[int]]]):
        self.encoder, self.prompts = encoder, prompts
        self.vocabulary = encoder.words()[0].tolist()

    def start(self, generator: Generator) -> Tensor:  # (1, e)
        token = self.vocabulary[int(torch.randint(len(self.vocabulary), (), generator=generator))]
        return _between(SIZES, generator) * self.encoder.look_up([token]).detach()

    def write(self, vector: Tensor, prompt: int) -> Texts:
        return self.encoder.encode([put_at(vector, *self.prompts[prompt])])


class Embeddings:
    """Displacements u of an unwanted prompt's embeddings, the same for all that differ from the safe prompt's.

    So that they go where text goes, displacements are mixed from n differences between the embeddings of two kept
    prompts (safe prompts, if none are kept) at the same place:

        u = 1/sqrt(2n) sum_j v_j (z_j - z'_j)           for v ~ N(0, 1) as large as kept text varies

    What is the same in every prompt, such as a start token or a template, adds nothing to it. CLIP's rows before those
    of T5 (`clip_rows` of them; 0 for other models) have coefficients of their own, and so has the pooled vector.
    """

    rate = 0.1

    def __init__(self, contexts: Contexts, clip_rows: int, generator: Generator):
        self.neg, self.safe, self.clip_rows = contexts.neg, contexts.safe, clip_rows
        kept = contexts.safe if contexts.keep is None else contexts.keep
        z = kept.sequence
        ends = (z.any(2) * torch.arange(1, z.shape[1] + 1)).amax(1)  # padding after the text is zero
        self.differences = {"text": _differences(z, clip_rows, ends, generator)}
        if clip_rows:
            self.differences["clip"] = _differences(z, 0, torch.full((len(z),), clip_rows), generator)
        if kept.pooled is not None:
            one = torch.ones(len(z), dtype=torch.long)
            self.differences["pooled"] = _differences(kept.pooled[:, None], 0, one, generator)

    def start(self, generator: Generator) -> Tensor:  # (kinds of text, n)
        return _between(DISPLACEMENTS, generator) * torch.randn(len(self.differences), ROWS, generator=generator)

    def write(self, vector: Tensor, prompt: int) -> Texts:
        sizes = vector.detach().square().mean(1, keepdim=True).sqrt()
        v = vector * (DISPLACEMENTS[1] / sizes).clamp(max=1)
        u = {kind: part @ rows for part, (kind, rows) in zip(v, self.differences.items())}  # (d,) each, or (p,)
        base = self.neg[torch.tensor([prompt])]
        shift = u["text"].expand(base.sequence.shape[1], -1)
        if self.clip_rows:
            shift = torch.cat([u["clip"].expand(self.clip_rows, -1), shift[self.clip_rows :]])
        pooled = None if base.pooled is None else base.pooled + u["pooled"]
        return replace(base, sequence=base.sequence + shift * self._differs(prompt)[:, None], pooled=pooled)

    def _differs(self, prompt: int) -> Tensor:  # (L,)
        """Where the unwanted prompt is not padding and the safe one has another embedding."""
        neg, safe = (texts.sequence[prompt] for texts in (self.neg, self.safe))
        safe = pad(safe, (0, 0, 0, len(neg)))[: len(neg)]
        return ((neg - safe).norm(dim=1) > 1e-3 * neg.norm(dim=1)) & neg.any(1)


def _between(sizes: tuple[float, float], generator: Generator) -> Tensor:
    least, most = sizes
    return least + (most - least) * torch.rand((), generator=generator)


def _differences(z: Tensor, start: int, ends: Tensor, generator: Generator) -> Tensor:  # (n, L, d) -> (ROWS, d)
    """Between two random prompts at a random place from `start` on that both have, scaled as in u."""
    one, other = torch.randint(len(z), (2, ROWS), generator=generator)
    places = torch.minimum(ends[one], ends[other]) - start
    at = start + (places * torch.rand(ROWS, generator=generator)).long()
    return (z[one, at] - z[other, at]) / math.sqrt(2 * ROWS)
