"""RealEra: semantic-level concept erasure via neighbor-concept mining (arXiv 2410.09140), its closed form.

Maps not only the concept's embedding to the safe target's but also points drawn around it: c + eta with
cos(c, c + eta) in [S_1, S_2], at a distance of at most D_1. Points farther away are kept. The authors do not publish
D_1, S_1 and S_2. Embeddings leave a layer norm with the same length, so the points drawn here have the length of c, and
D_1 follows from S_1. The LoRA of the paper is not implemented.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from ..text.embeddings import EmbeddingPairs, TextEncoder, embed_pairs
from ..text.prompts import expand
from ..text.tokens import TokenWeights
from .job import Edit, Job, MethodError, changed, edit_maps, everyday, moved, solve_means


@dataclass(frozen=True)
class RealEraSettings:
    """neighbours: points drawn around each embedding of a concept, and beyond. near (S_1): lowest cosine of those that
    are erased; far: of those that are kept beyond it, which weigh `beyond` times what everyday captions do.
    preserve, ridge: as in TRCE's closed form without the metric."""

    neighbours: int = 8
    near: float = 0.9
    far: float = 0.6
    beyond: float = 0.1
    preserve: float = 3.0
    ridge: float = 0.3
    seed: int = 0


def around(c: Tensor, cosine: Tensor, generator: Generator) -> Tensor:  # c (n, d), cosine (n,) -> (n, d)
    """A point of the length of c, at the given cosine to it, in a random direction."""
    length = c.norm(dim=1, keepdim=True)
    unit = c / length
    side = torch.randn(c.shape, generator=generator, dtype=c.dtype)
    side -= (side * unit).sum(1, keepdim=True) * unit
    side /= side.norm(dim=1, keepdim=True)
    return length * (cosine[:, None] * unit + (1 - cosine[:, None] ** 2).sqrt() * side)


def mine(pairs: EmbeddingPairs, settings: RealEraSettings) -> tuple[EmbeddingPairs, Tensor]:
    """The pairs with as many neighbours of each on the same target, and the points beyond (m, d)."""
    generator = Generator().manual_seed(settings.seed)
    k = settings.neighbours

    def draw(low: float, high: float) -> Tensor:
        c = pairs.sources.repeat(k, 1)
        return around(c, low + (high - low) * torch.rand(len(c), generator=generator), generator)

    near, far = draw(settings.near, 1.0), draw(settings.far, settings.near)
    # A point and its neighbours share the weight of the point alone.
    mined = EmbeddingPairs(
        torch.cat([pairs.sources, near]),
        pairs.targets.repeat(k + 1, 1),
        pairs.weights.repeat(k + 1),
        pairs.roles * (k + 1),
        pairs.concepts * (k + 1),
        pairs.alike,
    )
    return mined, far


def solve(encoder: TextEncoder, job: Job, settings: RealEraSettings) -> tuple[Tensor, Mapping[str, float]]:
    pairs = embed_pairs(expand(job.pairs, job.templates()), encoder, TokenWeights(), partial(job.progress, "Concepts"))
    mined, far = mine(pairs, settings)
    moment, kept = everyday(job, encoder)
    if len(far):
        moment = moment + settings.beyond * (far.double().mT @ far.double() / len(far))
    T = solve_means(mined, moment, preserve=settings.preserve, ridge=settings.ridge)
    return T, {"moved": moved(T, pairs), "kept": changed(T, kept), "moved neighbours": moved(T, mined)}


def erase(job: Job, settings: RealEraSettings) -> Edit:
    """Raises MethodError for cosines that no point can have."""
    if not -1 <= settings.far <= settings.near <= 1:
        raise MethodError(
            f"'near' is {settings.near:g} and 'far' is {settings.far:g}; RealEra needs a 'near' of at most 1 and a "
            "'far' from -1 to 'near'."
        )
    return edit_maps(job, lambda _, encoder: solve(encoder, job, settings))
