"""The published way of TRCE's first stage, step by step: what benchmarks/speed.py compares the pack with.

Written from the description of the official procedure (section 3.2 of the paper and its default settings), in the
order of its loops, and as slow:

- every prompt of every pair is encoded by itself, all 77 tokens of it;
- for every pair a copy of all projections is made, and each of them is multiplied with the targets of four tokens:
  start, first end of text, last token, keyword;
- for every projection the two matrices of its normal equation are summed up pair by pair: the outer products of all
  four tokens, then each of them scaled and added, also those of weight 0, to the projection's own cached W P and P;
- every projection is multiplied with its own explicit inverse, in float32.

One thing is not as published: the first end of text is where the token ids say and not where a count of the words
does, so that both procedures solve the same problem.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ROLE_WEIGHTS = (0.0, 1.0, 0.0, 0.0)  # start, first end of text, last token, keyword: the published settings
PRESERVE_SCALE = 0.01**2 / 3e4  # on the sum over the tokens of the cache; the published scale enters twice
CACHE_TOKENS = 77 * 30_000  # of the published cache, in which P is a sum: 30,000 captions of 77 tokens
PRESERVE_MEAN = PRESERVE_SCALE * CACHE_TOKENS  # the same scale for a mean over tokens


@dataclass(frozen=True)
class Prompt:
    """Token ids of one prompt, and where its four tokens stand."""

    ids: tuple[int, ...]
    roles: tuple[int, int, int, int]


@dataclass(frozen=True)
class Prepared:
    """One pair: what its tokens are now, and what every projection is to make of them."""

    contexts: Tensor  # (4, d)
    values: list[Tensor]  # per projection (4, out)
    counts: tuple[int, int, int, int]  # how many tokens each of the four stands for: the last one for all the padding


def prior_cache(projections: Sequence[Tensor], P: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(W P, P) for every projection: the published cache, which is computed once and read from disk."""
    return [(W @ P.to(W), P.to(W).clone()) for W in projections]


def prepare(
    encode: Callable[[tuple[int, ...]], Tensor],  # ids -> (77, d)
    pairs: Sequence[tuple[Prompt, Prompt]],  # (source, target)
    projections: Sequence[Tensor],  # (out, d) each
) -> list[Prepared]:
    """Embed and project the four tokens of every pair."""
    prepared = []
    for source, target in pairs:
        z, z_safe = encode(source.ids), encode(target.ids)
        originals = copy.deepcopy(list(projections))
        gc.collect()
        contexts = torch.stack([z[place] for place in source.roles])
        targets = torch.stack([z_safe[place] for place in target.roles])
        counts = (1, 1, len(source.ids) - 1 - source.roles[1], 1)
        prepared.append(Prepared(contexts, [targets @ W.mT for W in originals], counts))
    return prepared


def refine(
    projections: Sequence[Tensor],
    prepared: Sequence[Prepared],
    cache: Sequence[tuple[Tensor, Tensor]],
    role_weights: Sequence[float] = ROLE_WEIGHTS,
    preserve_scale: float = PRESERVE_MEAN,  # on the P of `cache`
) -> list[Tensor]:
    """The edited projections, each from its own normal equation."""
    edited = []
    n = len(prepared)
    for layer, (WP, P) in enumerate(cache):
        left, right = preserve_scale * WP, preserve_scale * P
        for pair in prepared:
            value_context = pair.values[layer][:, :, None] @ pair.contexts[:, None, :]  # (4, out, d)
            context_context = pair.contexts[:, :, None] @ pair.contexts[:, None, :]  # (4, d, d)
            for role, (weight, count) in enumerate(zip(role_weights, pair.counts)):
                left = left + weight * count * value_context[role] / n
                right = right + weight * count * context_context[role] / n
        edited.append((left @ torch.inverse(right)).to(projections[layer]))
    return edited
