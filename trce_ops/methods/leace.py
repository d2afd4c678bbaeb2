"""LEACE: perfect linear concept erasure in closed form (NeurIPS 2023), on the text; R-LACE (ICML 2022) is its kin.

Among all affine maps after which no linear classifier tells the classes of x apart better than a constant does, which
is to say that all classes have the same mean, LEACE is the one that changes x least:

    r(x) = x - Q (x - mu),   Q = S (S^T A^-1 S)^+ S^T A^-1,   S = cov(x, z), A = cov(x) + shrinkage

for labels z. Here there is a class for every concept, and one for all that is neutral: the sentences with the
replacement, the keep list and everyday captions. Concepts and neutral texts are compared role by role, an end of text
with an end of text, so that what is erased is the concept and not what tells the roles apart. Whatever the
replacement is, nothing is aimed at: the concept's mean becomes that of the rest.

A map on embeddings has no constant term for Q mu. But where they leave a layer norm there is a vector v with v x = 1
for all of them, so that Q mu v^T says the same. v is fitted, among those that no class differs in, so that the
guarantee holds exactly whatever the fit; the report says by how much v x misses 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..closed_form.erase import EVERYDAY, keep_moments
from ..text.embeddings import TextEncoder, embed_pairs, pair_positions
from ..text.prompts import expand
from ..text.tokens import TokenWeights
from .job import Edit, Job, changed, edit_maps, embed_kept

NEUTRAL = ""
CONSTANT_RIDGE = 1e-3  # of v, against the mean square of the embeddings' components


@dataclass(frozen=True)
class LeaceSettings:
    """shrinkage: of the covariance, against its mean variance; there are fewer texts than dimensions. The guarantee
    holds with any; 1 erased most on the demo model. affine: with the constant term."""

    shrinkage: float = 1.0
    affine: bool = True


@dataclass(frozen=True)
class Classes:
    """Embeddings with what they are: role and concept, or NEUTRAL."""

    x: Tensor  # (n, d) float64
    roles: tuple[str, ...]
    labels: tuple[str, ...]

    def rows(self, role: str, label: str | None = None) -> Tensor:  # (m, d)
        kept = [i for i, (r, z) in enumerate(zip(self.roles, self.labels)) if r == role and label in (None, z)]
        return self.x[kept]


def means(classes: Classes) -> list[Tensor]:  # (d,) each
    """Of every concept in every role: its mean less the role's. They span what cov(x, z) does."""
    found = []
    for role, label in dict.fromkeys(zip(classes.roles, classes.labels)):
        if label != NEUTRAL:
            found.append(classes.rows(role, label).mean(0) - classes.rows(role).mean(0))
    return found


def fit(classes: Classes, settings: LeaceSettings) -> tuple[Tensor, float]:
    """T (d, d), and the root mean square of v x - 1."""
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
    told = partial(job.progress, "Concepts")
    pairs = embed_pairs(expand(job.pairs, templates), encoder, weights, told)
    kept = embed_kept(job, encoder, partial(pair_positions, weights=weights), templates)
    captions = keep_moments((), job.concepts, templates, encoder, job.cache_dir, job.progress)[EVERYDAY].samples[:, 0]
    parts = [
        (pairs.sources, pairs.roles, pairs.concepts),
        (pairs.targets, pairs.roles, (NEUTRAL,) * len(pairs)),
        (kept.sources, kept.roles, (NEUTRAL,) * len(kept)),
        (captions, ("first_eot",) * len(captions), (NEUTRAL,) * len(captions)),
    ]
    x, roles, labels = zip(*parts)
    return Classes(torch.cat(x).double(), sum(roles, ()), sum(labels, ())), captions


def apart(classes: Classes, T: Tensor) -> float:
    """How far the concepts' means are from their roles', under T, as a share of what it was."""
    mapped = Classes(classes.x @ T.mT, classes.roles, classes.labels)
    after, before = (torch.stack(means(given), 1).norm() for given in (mapped, classes))
    return (after / before).item()


def solve(kind: str, encoder: TextEncoder, job: Job, settings: LeaceSettings) -> tuple[Tensor, Mapping[str, float]]:
    weights = TokenWeights(keyword=0.0) if kind == "pooled" else TokenWeights()
    classes, captions = collect(encoder, job, weights)
    T, misses = fit(classes, settings)
    return T, {"apart": apart(classes, T), "kept": changed(T, captions), "constant missed by": misses}


def erase(job: Job, settings: LeaceSettings) -> Edit:
    return edit_maps(job, lambda kind, encoder: solve(kind, encoder, job, settings))
