"""RECE: Reliable and Efficient Concept Erasure (ECCV 2024), sections 3.2 and 3.3.

After UCE, each round finds the embeddings that make the edited model respond as the unedited model did to the concept,
and erases those. With W' = W T the projections enter only through G = sum_l W_l^T W_l (derived):

    c' = argmin sum_l |W_l T c' - W_l c|^2 + lambda |c'|^2 = (T^T G T + lambda I)^-1 T^T G c
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ..closed_form.metric import total_gram
from ..text.embeddings import TextEncoder, embed_positions
from ..text.prompts import PLAIN, PromptPair, expand
from ..text.tokens import Roles
from . import uce
from .job import Edit, Job, MethodError, changed, edit_maps, moved, solve_sums


@dataclass(frozen=True)
class ReceSettings:
    """rounds: of attack and erasure after UCE. reach (lambda): the smaller, the farther an attack may go.
    preserve (lambda_1), ridge (lambda_2): as in UCE, for the rounds. start: the settings of UCE."""

    rounds: int = 1
    reach: float = 0.1
    preserve: float = 0.1
    ridge: float = 0.1
    start: uce.UceSettings = field(default_factory=uce.UceSettings)


def resurrect(c: Tensor, T: Tensor, G: Tensor, reach: float) -> Tensor:  # c (n, d), T (d, d), G (d, d) -> (n, d)
    """The embeddings c' whose projections by W T come nearest to those of c by W."""
    eye = torch.eye(len(G), dtype=G.dtype)
    return torch.linalg.solve(T.mT @ G @ T + reach * eye, T.mT @ G @ c.mT).mT


def every_token(source: Roles, target: Roles) -> Iterator[tuple[str, int, int, float]]:
    """Every token onto the token at the same position of the target; past the target's end, onto its last token."""
    last = max(target.first_eot, *target.pads, 0)
    return (("token", p, min(p, last), 1.0) for p in range(1 + max(source.first_eot, *source.pads, 0)))


def solve(
    encoder: TextEncoder, job: Job, weights: Mapping[str, Tensor], settings: ReceSettings
) -> tuple[Tensor, Mapping[str, float]]:
    start = settings.start
    pairs, kept = uce.embed(encoder, job, start)
    T = solve_sums(pairs.sources, pairs.targets, kept, erase=start.erase, preserve=start.preserve, ridge=start.ridge)
    G = total_gram(weights.values(), encoder.width)
    progress = partial(job.progress, "Attacked prompts")
    whole = embed_positions(expand(job.pairs, PLAIN), encoder, every_token, progress)
    empty = embed_positions([PromptPair("", "", "", "", "")], encoder, every_token, progress)
    kept = torch.cat([kept, empty.sources])
    for number in range(settings.rounds):
        job.progress("Adversarial rounds", number, settings.rounds)
        attacks = resurrect(whole.sources.double(), T, G, settings.reach)
        # The round edits the model as it is: W T becomes W T T_round.
        T = T @ solve_sums(
            attacks, whole.targets.double(), kept, erase=1.0, preserve=settings.preserve, ridge=settings.ridge
        )
    job.progress("Adversarial rounds", settings.rounds, settings.rounds)
    return T, {"moved": moved(T, pairs), "moved tokens": moved(T, whole), "kept": changed(T, kept)}


def erase(job: Job, settings: ReceSettings) -> Edit:
    """Raises MethodError for a `reach` that leaves the attack without one solution."""
    if settings.reach <= 0:
        raise MethodError(f"'reach' is {settings.reach:g}; RECE needs more than 0.")
    return edit_maps(job, lambda kind, encoder: solve(encoder, job, job.projections(kind), settings))
