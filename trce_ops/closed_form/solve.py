"""The closed-form solution of TRCE's textual stage as one matrix for the whole model.

The paper (section 3.2, with the objective of UCE) minimises over each cross-attention projection W

    sum_i w_i |W' c_i - W s_i|^2 + eta sum_j |W' k_j - W k_j|^2 + mu |W' - W|^2

for source embeddings c, targets s and kept embeddings k. Setting the derivative to zero gives W' = W T, with the same T
for every projection that reads the text, because W factors out of both sides (derived):

    A = 1/n sum_i w_i c_i c_i^T + eta P + mu I
    T = I + [1/n sum_i w_i (s_i - c_i) c_i^T] A^-1

With the metric G (metric.py), mu G^-1 replaces mu I.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..delta.low_rank import ContextMap
from .metric import resistance

ROWS = 4096  # rows taken to float64 at a time
BLOCK = 192  # columns of A at a time, because only one triangle is needed
ENERGY = 1 - 1e-10  # share of |T - I|^2 that factors keep: as exact as float32


class NotPositiveDefinite(ValueError):
    """The system to solve has no unique solution."""


def solve_context_map(
    sources: Tensor,  # (n, d) embeddings c to be moved
    targets: Tensor,  # (n, d) embeddings s to move them to
    weights: Tensor,  # (n,) how much each pair counts, >= 0
    preserve: Tensor | None,  # (d, d) mean second moment P of kept embeddings
    *,
    preserve_scale: float,
    ridge: float,
    metric: Tensor | None = None,  # (d, d)
) -> Tensor:
    """T = I + D (d, d) in float64; D as solve_factors returns it, multiplied out."""
    given = {"preserve_scale": preserve_scale, "ridge": ridge, "metric": metric}
    factors = solve_factors(sources, targets, weights, preserve, **given)
    T = factors[0] if len(factors) == 1 else factors[0] @ factors[1]
    T.diagonal().add_(1)
    return T


def solve_factors(
    sources: Tensor,  # (n, d)
    targets: Tensor,  # (n, d)
    weights: Tensor,  # (n,)
    preserve: Tensor | None,  # (d, d)
    *,
    preserve_scale: float,
    ridge: float,
    metric: Tensor | None = None,  # (d, d) G, how strongly the model responds to each direction; None: the identity
) -> tuple[Tensor, ...]:
    """Solve for D = T - I in float64. Returns factors (d, n) and (n, d) of D, or D alone if n > min(d, ROWS).

    preserve_scale (eta): raising it keeps the kept embeddings where they are, at the cost of a weaker erasure.
    ridge (mu): raising it keeps T near the identity, most in directions that the model responds to least, and
    the system well conditioned.

    Solves for the difference D, not for T, by Cholesky. In float32, the condition numbers of real encoders would leave
    no correct digit; for D, P and mu do not appear on the right-hand side, so their rounding does not matter.
    Without pairs T is the identity, of rank 0. Raises NotPositiveDefinite when the system has no unique solution and
    ValueError on NaN, Inf, negative weights or shapes that do not fit.
    """
    n, d = sources.shape
    squares = [square for square in (preserve, metric) if square is not None]
    if targets.shape != (n, d) or weights.shape != (n,) or any(square.shape != (d, d) for square in squares):
        raise ValueError(
            f"Shapes do not fit: sources {(n, d)}, targets {tuple(targets.shape)}, weights {tuple(weights.shape)}, "
            f"preserve and metric {[tuple(square.shape) for square in squares]}."
        )
    if n == 0:
        return torch.zeros(d, 0, dtype=torch.float64), torch.zeros(0, d, dtype=torch.float64)
    given = {"sources": sources, "targets": targets, "weights": weights, "preserve": preserve, "metric": metric}
    for name, tensor in given.items():
        if tensor is not None and not torch.isfinite(tensor).all():
            raise ValueError(f"'{name}' holds NaN or Inf; load the text encoder in fp32 or bf16.")
    if (weights < 0).any() or not 0 <= preserve_scale < math.inf or not 0 <= ridge < math.inf:
        raise ValueError("Weights, 'preserve' and 'ridge' must be 0 or more, and finite.")

    A = torch.zeros(d, d, dtype=torch.float64)
    if preserve is not None:
        A.add_(preserve.to(A), alpha=preserve_scale)
    if metric is None:
        A.diagonal().add_(ridge)
    else:
        A.add_(resistance(metric), alpha=ridge)
    few = n <= min(d, ROWS)  # then solve for n right-hand sides instead of d
    left = right = shift = torch.zeros(0 if few else d, d, dtype=torch.float64)
    for rows in zip(sources.split(ROWS), targets.split(ROWS), weights.split(ROWS)):
        c, s, w = (row.double().cpu() for row in rows)
        left, right = (s - c).mT, w[:, None] * c / n
        for stop in range(BLOCK, d + BLOCK, BLOCK):
            here = slice(stop - BLOCK, stop)
            A[here, :stop].addmm_(right[:, here].mT, c[:, :stop])
        if not few:
            shift.addmm_(left, right)
    L, failed = torch.linalg.cholesky_ex(A)
    del A
    # Rounding can let a singular A through Cholesky; a tiny smallest pivot reveals it.
    pivots = L.diagonal() ** 2
    if failed or pivots.min() <= d * torch.finfo(torch.float64).eps * pivots.max():
        raise NotPositiveDefinite(
            f"The erasure has no unique solution with 'ridge' at {ridge:g} and 'preserve' at {preserve_scale:g}; "
            "raise 'ridge'."
        )
    # A is symmetric: D = shift A^-1 is the transpose of A^-1 shift^T.
    if few:
        return left, torch.cholesky_solve(right.mT, L).mT
    return (torch.cholesky_solve(shift.mT, L).mT,)


def factorize(
    *factors: Tensor,  # D = T - I (d, d), or (d, n) and (n, d) whose product it is
    energy: float = ENERGY,
) -> ContextMap:
    """D as up (d, r) @ down (r, d) in float32 with at least `energy` of |D|^2, or dense when that is not larger.

    The best factors of rank r are D V and V^T for the first r right singular vectors V. These are eigenvectors of
    D^T D, whose rounding in float64 (1e-16 of the energy) is below any useful tolerance, at a tenth of an SVD's cost.
    Of a product D = B Q^T with orthonormal Q (d, n) they are Q times those of B, so the cost depends on n, not on d.
    """
    B, *rest = (factor.double() for factor in factors)
    d, Q = len(B), None
    if 2 * B.shape[1] >= d:  # D is mostly dense then
        D = B @ rest[0] if rest else B
        if _dense(D, energy):
            return ContextMap((D.float().contiguous(),))
    if rest:
        Q, R = torch.linalg.qr(rest[0].mT)
        B = B @ R.mT
    values, V = torch.linalg.eigh(B.mT @ B)  # ascending
    lost = values.clamp(min=0).cumsum(0)
    r = int((lost > (1 - energy) * lost[-1:]).sum())
    if 2 * r >= d:
        return ContextMap(((B if Q is None else B @ Q.mT).float().contiguous(),))
    V = V[:, V.shape[1] - r :].flip(1)
    down = V.mT if Q is None else V.mT @ Q.mT
    return ContextMap(((B @ V).float().contiguous(), down.float().contiguous()))


def _dense(D: Tensor, energy: float) -> bool:
    """Whether factors of D are certain to be no smaller than D. Judges by some of its columns, at a fifth of the cost.

    The k-th singular value of some columns is at most D's k-th. So if theirs from the (d / 2)-th on hold more of
    |D|^2 than may be lost, D's do too.
    """
    d = len(D)
    some = D[:, : -(-5 * d // 8)]
    half = -(-d // 2)
    values = torch.linalg.eigvalsh(some.mT @ some)  # ascending
    return bool(values[: len(values) - half + 1].clamp(min=0).sum() > (1 - energy) * D.square().sum())
