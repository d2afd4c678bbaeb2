"""How strongly a model responds to each direction of its text embeddings.

A projection W sees only W z of an embedding z, and embeddings differ in many directions to which no projection
responds. A map fitted to those directions mistakes unrelated prompts for the concept and misses descriptions of it. Let

    G = d/m sum_l W_l^T W_l / |W_l|^2        over the m projections that read the text; its mean eigenvalue is 1

Then z^T G z' compares two embeddings as the model sees them. Stage 1 penalises a change D = T - I by mu tr(D G^-1 D^T)
instead of mu |D|^2 (solve.py). Stage 2 trains its factors on L^T z (tuning/factors.py), with

    L L^T = (P + G^-1)^-1                    P: the second moment of what is kept

so that directions to which the model responds, and which kept text seldom uses, are learned first. Both are our
additions; the paper uses G = L = I.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

ROWS = 8  # rows of all projections together, as a multiple of d; enough to estimate G
FLOOR = 1e-3  # added to all eigenvalues, so that G can be inverted


def total_gram(weights: Iterable[Tensor], width: int) -> Tensor:
    """sum_l W_l^T W_l (d, d) float64 over whole projections W (out, d or more), whose first d columns read the text."""
    total = torch.zeros(width, width, dtype=torch.float64)
    for W in weights:
        W = W[:, :width].double()
        total.addmm_(W.mT, W)
    return total


def gram(weights: Iterable[Tensor], count: int, width: int) -> Tensor:
    """G (d, d) float64 of `count` projections W (out, d or more), whose first d columns read the text.

    Holds one projection in memory at a time; samples evenly spaced rows of large ones.
    """
    G = torch.zeros(width, width)
    most = max(1, ROWS * width // max(1, count))
    for W in weights:
        W = W[:: -(-len(W) // most), :width].float()
        size = W.square().sum().clamp(min=torch.finfo(torch.float32).tiny)
        G = G.to(W.device).addmm_(W.mT, W / size)
    return G.cpu().double() * (width / max(1, count))


def resistance(G: Tensor) -> Tensor:  # (d, d) -> (d, d) float64
    """G^-1, with FLOOR added to G's eigenvalues: the penalty of a change in each direction."""
    floor = FLOOR * torch.eye(len(G), dtype=torch.float64)
    return torch.cholesky_inverse(torch.linalg.cholesky(G.double() + floor))


def metric_root(G: Tensor, kept: Tensor) -> Tensor:  # (d, d), (n, d) embeddings -> (d, d) float64
    """L, the symmetric root of (P + G^-1)^-1 with P = 1/n sum_j k_j k_j^T over the embeddings that are not padding."""
    k = kept[kept.any(1)].double()
    values, V = torch.linalg.eigh(k.mT @ k / max(1, len(k)) + resistance(G))
    return V / values.sqrt() @ V.mT
