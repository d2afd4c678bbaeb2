"""MACE's first stage: Mass Concept Erasure in Diffusion Models (CVPR 2024), section 3.1.

A causal text encoder spreads a concept over all later tokens. The refinement maps every token that both sentences share
to its embedding in the sentence with the safe target. The concept's own tokens are left to MACE's second stage, a LoRA
trained on segmented pictures, which is not implemented.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..text.embeddings import TextEncoder, embed_positions, same_place
from ..text.prompts import expand
from ..text.tokens import Roles
from .job import Edit, Job, changed, edit_maps, everyday, moved, solve_means


@dataclass(frozen=True)
class MaceSettings:
    """preserve (lambda_1): weight of everyday captions and the keep list. ridge (lambda_2): of W' = W. Both relative
    to a mean weight of 1 for concept tokens. The paper's differ from task to task and are for sums over
    616 000 captions; these were chosen on the demo model."""

    preserve: float = 3.0
    ridge: float = 0.3


def common(source: Roles, target: Roles) -> Iterator[tuple[str, int, int, float]]:
    """Every token of the source except the concept's, and its position in the target."""
    yield from (("sot", p, q, 1.0) for p, q in zip(source.sot, target.sot))
    words = source.others or (range(len(source.sot), source.first_eot) if source.sot else ())
    if target.keyword or not source.keyword:  # the same sentence
        yield from (("words", p, same_place(p, source, target), 1.0) for p in words if p not in source.keyword)
    if source.first_eot not in source.keyword:
        yield "first_eot", source.first_eot, target.first_eot, 1.0
    pads = set(target.pads)
    yield from (("pads", p, p if p in pads else target.first_eot, 1.0) for p in source.pads)


def solve(encoder: TextEncoder, job: Job, settings: MaceSettings) -> tuple[Tensor, Mapping[str, float]]:
    pairs = embed_positions(expand(job.pairs, job.templates()), encoder, common, partial(job.progress, "Concepts"))
    moment, kept = everyday(job, encoder)
    T = solve_means(pairs, moment, preserve=settings.preserve, ridge=settings.ridge)
    return T, {"moved": moved(T, pairs), "kept": changed(T, kept)}


def erase(job: Job, settings: MaceSettings) -> Edit:
    return edit_maps(job, lambda _, encoder: solve(encoder, job, settings))
