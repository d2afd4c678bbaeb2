"""How strongly a model reads each direction of its text: the metric that cues are measured in.

A projection W sees nothing of an embedding z but W z. Embeddings differ in many more ways than a model makes use of,
and a map that tells a concept by those takes unrelated prompts for it and misses descriptions of it. With

    G = d/m sum_l W_l^T W_l / |W_l|^2        over the m projections that read the text; its mean eigenvalue is 1

z^T G z' compares two embeddings as the model sees them. Stage 1 pays mu tr(D G^-1 D^T) instead of mu |D|^2 for a change
D = T - I (closed_form.py). Stage 2 learns its factors on L^T z (tuned.py), with

    L L^T = (P + G^-1)^-1                    P: the second moment of what is kept

so that directions which are read, and which kept text seldom takes, are learned first. Both is our own; the paper's is
G = I and L = I.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

ROWS = 8  # times d: so many rows of all projections together say enough of G
FLOOR = 1e-3  # added to all eigenvalues: no direction is out of reach


def gram(weights: Iterable[Tensor], count: int, width: int) -> Tensor:
    """G (d, d) float64 of `count` projections W (out, d or more), whose first d columns read the text.

    One of them is in memory at a time, and of large ones evenly spaced rows.
    """
    G = torch.zeros(width, width)
    most = max(1, ROWS * width // max(1, count))
    for W in weights:
        W = W[:: -(-len(W) // most), :width].float()
        size = W.square().sum().clamp(min=torch.finfo(torch.float32).tiny)
        G = G.to(W.device).addmm_(W.mT, W / size)
    return G.cpu().double() * (width / max(1, count))


def resistance(G: Tensor) -> Tensor:  # (d, d) -> (d, d) float64
    """G^-1, up to FLOOR: what a change costs in each direction."""
    floor = FLOOR * torch.eye(len(G), dtype=torch.float64)
    return torch.cholesky_inverse(torch.linalg.cholesky(G.double() + floor))


def cues(G: Tensor, kept: Tensor) -> Tensor:  # (d, d), (n, d) embeddings -> (d, d) float64
    """L, the symmetric root of (P + G^-1)^-1 with P = 1/n sum_j k_j k_j^T."""
    k = kept.double()
    values, V = torch.linalg.eigh(k.mT @ k / len(k) + resistance(G))
    return V / values.sqrt() @ V.mT
