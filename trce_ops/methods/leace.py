"""LEACE: perfect linear concept erasure in closed form (NeurIPS 2023), applied to text embeddings.

Among all affine maps after which the classes of x have the same mean, so that no linear classifier predicts the class
better than a constant does, LEACE changes x least:

    r(x) = x - Q (x - mu),   Q = S (S^T A^-1 S)^+ S^T A^-1,   S = cov(x, z), A = cov(x) + shrinkage

for labels z. The classes are the concepts, and one neutral class: sentences with the safe target, the keep list and
everyday captions. Concepts and neutral texts are compared within a token role, so that differences between roles are
not erased. LEACE ignores the safe target: the concept's mean becomes the neutral mean.

A map on embeddings has no constant term for Q mu. But embeddings come out of a layer norm, so some vector v has v x = 1
for all of them, and Q mu v^T has the same effect. v is fitted among vectors that are the same for all classes, so the
guarantee holds whatever the fit; the report gives the error of v x = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..closed_form.erase import EVERYDAY
from ..text.embeddings import TextEncoder, embed_pairs, pair_positions
from ..text.prompts import expand
from ..text.tokens import TokenWeights
from .job import Edit, Job, changed, edit_maps, embed_kept, moments

NEUTRAL = ""
CONSTANT_RIDGE = 1e-3  # of v, against the mean square of the embeddings' components


@dataclass(frozen=True)
class LeaceSettings:
    """shrinkage: of the covariance towards its mean variance, because there are fewer texts than dimensions. The
    guarantee holds for any value; 3 was chosen on the demo model. affine: use the constant term."""

    shrinkage: float = 3.0
    affine: bool = True


@dataclass(frozen=True)
class Classes:
    """Embeddings with their roles, and their concepts or NEUTRAL."""

    x: Tensor  # (n, d) float64
    roles: tuple[str, ...]
    labels: tuple[str, ...]

    def rows(self, role: str) -> Tensor:  # (m, d)
        return self.x[[i for i, r in enumerate(self.roles) if r == role]]


def means(classes: Classes) -> list[Tensor]:  # (d,) each
    """Per concept and role: the concept's mean minus the role's mean. Their span is that of cov(x, z)."""
    rows: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(zip(classes.roles, classes.labels)):
        rows.setdefault(key, []).append(row)
    whole = {role: classes.rows(role).mean(0) for role in dict.fromkeys(classes.roles)}
    return [classes.x[own].mean(0) - whole[role] for (role, label), own in rows.items() if label != NEUTRAL]


def fit(classes: Classes, settings: LeaceSettings) -> tuple[Tensor, float]:
    """T (d, d), and the root mean square of v x - 1; 1 without the constant term."""
    x = classes.x
    d = x.shape[1]
    eye = torch.eye(d, dtype=x.dtype)
    covariance = torch.zeros_like(eye)
    for role in dict.fromkeys(classes.roles):
        rows = classes.rows(role)
        covariance += (rows - rows.mean(0)).mT @ (rows - rows.mean(0)) / len(x)
    S = torch.stack(means(classes), 1)
    A = covariance + settings.shrinkage * covariance.trace() / d * eye
    solved = torch.linalg.solve(A, S)
    Q = S @ torch.linalg.pinv(S.mT @ solved, hermitian=True) @ solved.mT
    if not settings.affine:
        return eye - Q, 1.0
    v = constant(x, S)
    return eye - Q + torch.outer(Q @ x.mean(0), v), (x @ v - 1).square().mean().sqrt().item()


def constant(x: Tensor, S: Tensor) -> Tensor:  # x (n, d), S (d, k) -> (d,)
    """v with v x nearest to 1, and v S = 0."""
    basis, sizes, _ = torch.linalg.svd(S, full_matrices=False)
    basis = basis[:, sizes > sizes.max() * 1e-10]
    free = x - x @ basis @ basis.mT
    second = free.mT @ free / len(x)
    second += CONSTANT_RIDGE * second.trace() / len(second) * torch.eye(len(second), dtype=x.dtype)
    v = torch.linalg.solve(second, free.mean(0))
    return v - basis @ (basis.mT @ v)


def collect(encoder: TextEncoder, job: Job, weights: TokenWeights) -> tuple[Classes, Tensor]:
    """The classes, and the everyday captions' samples (m, d)."""
    templates = job.templates()
    pairs = embed_pairs(expand(job.pairs, templates), encoder, weights, partial(job.progress, "Concepts"))
    kept = embed_kept(job, encoder, partial(pair_positions, weights=weights), templates)
    captions = moments(job, encoder, (), templates)[EVERYDAY].samples[:, 0]
    parts = [
        (pairs.sources, pairs.roles, pairs.concepts),
        (pairs.targets, pairs.roles, (NEUTRAL,) * len(pairs)),
        (kept.sources, kept.roles, (NEUTRAL,) * len(kept)),
        (captions, ("first_eot",) * len(captions), (NEUTRAL,) * len(captions)),
    ]
    x, roles, labels = zip(*parts)
    return Classes(torch.cat(x).double(), sum(roles, ()), sum(labels, ())), captions


def apart(classes: Classes, T: Tensor) -> float:
    """Distance of the concepts' means from their roles' means after T, as a share of the distance before."""
    mapped = Classes(classes.x @ T.mT, classes.roles, classes.labels)
    after, before = (torch.stack(means(given), 1).norm() for given in (mapped, classes))
    return (after / before).item()


def solve(encoder: TextEncoder, job: Job, settings: LeaceSettings) -> tuple[Tensor, Mapping[str, float]]:
    classes, captions = collect(encoder, job, TokenWeights())
    T, misses = fit(classes, settings)
    return T, {"apart": apart(classes, T), "kept": changed(T, captions), "constant missed by": misses}


def erase(job: Job, settings: LeaceSettings) -> Edit:
    return edit_maps(job, lambda _, encoder: solve(encoder, job, settings))
