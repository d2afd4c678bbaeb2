"""The losses of TRCE's second stage, and the position tau of a prediction.

All arguments are noise predictions (n, ...) of one batch: the unedited model's for the unwanted prompt (e_neg), the
safe prompt (e_safe) and the empty prompt (e_u), and the tuned model's (e). |.|^2 is the mean over the elements, as in
the official code, so that it does not grow with the picture.
"""

from __future__ import annotations

import torch
from torch import Tensor

GRADIENT_SCALE = 2.0**12  # keeps float16 gradients from underflowing; a power of two, so scaling adds no rounding


def _dot(a: Tensor, b: Tensor) -> Tensor:  # (n, ...) twice -> (n,)
    return (a * b).flatten(1).mean(1)


def apart(d: Tensor) -> tuple[Tensor, Tensor]:  # (n, ...) -> (n,) twice
    """|d|^2, or 1 where it is too small to divide by; and whether it is large enough."""
    square = _dot(d, d)
    differs = square > torch.finfo(square.dtype).tiny ** 0.5
    return torch.where(differs, square, 1.0), differs


def position(e: Tensor, e_neg: Tensor, e_safe: Tensor) -> Tensor:  # (n,)
    """tau: the position of e on the line from e_neg (0) to e_safe (1); 0 where the two are equal.

    tau = <e - e_neg, d> / |d|^2 with d = e_safe - e_neg. A value means the same for every sigma, picture and model.
    """
    d = e_safe - e_neg
    square, differs = apart(d)
    return torch.where(differs, _dot(e - e_neg, d) / square, 0.0)


def tau_hinge(e: Tensor, e_neg: Tensor, e_safe: Tensor, goal: float) -> Tensor:  # (n,)
    """max(goal - tau, 0): pushes towards the safe side and stops at `goal`; 0 where e_neg and e_safe are equal."""
    _, differs = apart(e_safe - e_neg)
    return torch.where(differs, (goal - position(e, e_neg, e_safe)).clamp(min=0), 0.0)


def hinge(e: Tensor, e_neg: Tensor, e_safe: Tensor, e_u: Tensor, beta: float, margin: float) -> Tensor:  # (n,)
    """The paper's loss, section 3.3: max(|e - f_safe|^2 - |e - f_unsafe|^2 + margin, 0), f = e_u + beta (e_. - e_u)."""
    to_safe = e - (e_u + beta * (e_safe - e_u))
    to_unsafe = e - (e_u + beta * (e_neg - e_u))
    return (_dot(to_safe, to_safe) - _dot(to_unsafe, to_unsafe) + margin).clamp(min=0)


def drift(e: Tensor, e_kept: Tensor) -> Tensor:  # (n,)
    """|e - e_kept|^2: how much a prediction to be kept has changed."""
    return _dot(e - e_kept, e - e_kept)
