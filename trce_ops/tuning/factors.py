"""What tuning changes: dW on a chosen set of attention projections, beside the context map.

What is trained reads the text as stage 1 left it, (W + dW) T. A delta holds dW T for the projections that read the
text, so that a tuned model has W' = W T + dW on those and W' = W + dW on the others. At another strength s it is
W + s (W T - W) + s dW: the whole erasure fades as one, and its LoRA is linear. Two tuned deltas in a row add on
projections that do not read the text; on those that do, the second map also acts on what the first delta added.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
from torch import Generator, Tensor

from ..delta.low_rank import Tuned, WeightChange

# Which projections are trained, by the end of their names: self-attention and the queries of cross-attention (paper),
# keys and values of cross-attention (text), all of cross-attention (cross), or everything (wide).
TRAINED = {
    "paper": re.compile(r"\.(attn1\.(to_[qkv]|to_out\.0)|attn2\.to_q)\.weight$"),
    "text": re.compile(r"\.attn2\.to_[kv]\.weight$"),
    "cross": re.compile(r"\.attn2\.to_[qkv]\.weight$"),
    "wide": re.compile(r"\.(attn1\.(to_[qkv]|to_out\.0)|attn2\.to_[qkv])\.weight$"),
}


def choose(names: Iterable[str], trained: str) -> tuple[str, ...]:
    """The parameters of one of the sets above."""
    return tuple(name for name in names if TRAINED[trained].search(name))


class Trained:
    """The projections in training: W of the unedited model and the change that is learnt.

    roots: L (in, in) of metric.py by name, for those whose factors learn on L^T z: dW = up @ down @ L^T.
    """

    def __init__(
        self,
        start: Mapping[str, Tensor],
        rank: int,
        generator: Generator,
        roots: Mapping[str, Tensor] = MappingProxyType({}),
    ):
        self.start = start  # (out, in) each
        self.factors = {name: _untrained(W, rank, generator) for name, W in start.items()}
        self.roots = {name: L.to(start[name].device) for name, L in roots.items() if rank}
        self.parameters = [factor for factors in self.factors.values() for factor in factors]
        self.norm = math.sqrt(sum(W.float().square().sum().item() for W in start.values()))

    @property
    def changes(self) -> dict[str, WeightChange]:
        """dW by name, with the graph from what is learnt."""
        return {name: WeightChange(self._read(name, factors)) for name, factors in self.factors.items()}

    def _read(self, name: str, factors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        *up, down = factors
        return (*up, down @ self.roots[name].mT) if name in self.roots else factors

    def overrides(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """W + dW by name, added in float32, with the graph from dW."""
        return {name: (self.start[name].float() + dW.dense()).to(dtype) for name, dW in self.changes.items()}

    @torch.no_grad()
    def change(self) -> float:
        """|dW| / |W|."""
        return math.sqrt(max(0.0, sum(dW.square_norm() for dW in self.changes.values()).item())) / self.norm

    def result(self) -> Tuned:
        return {
            name.removesuffix(".weight"): WeightChange(tuple(factor.detach().cpu().clone() for factor in dW.factors))
            for name, dW in self.changes.items()
        }


def _untrained(W: Tensor, rank: int, generator: Generator) -> tuple[Tensor, ...]:
    """The factors of a change of zero: whole matrices start at 0, of two factors only the first does."""
    n_out, n_in = W.shape
    if rank == 0:
        factors = (torch.zeros(n_out, n_in),)
    else:
        rank = min(rank, n_out, n_in)
        down = torch.randn(rank, n_in, generator=generator) / n_in**0.5
        factors = (torch.zeros(n_out, rank), down)
    return tuple(factor.to(W.device).requires_grad_() for factor in factors)
