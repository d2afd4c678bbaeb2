"""The weights that tuning trains: a change dW of some attention projections, in addition to the context map.

Training sees the text as stage 1 leaves it, (W + dW) T. For projections that read the text, a delta stores dW T in the
place of dW, so a tuned model has W' = W T + dW on those and W' = W + dW on the others. At another strength s that is
W + s (W T - W) + s dW: the whole erasure fades together, and its LoRA is linear. When two tuned deltas are applied,
their changes add on projections that do not read the text; on the others the second map also acts on the first change.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from ..delta.low_rank import Tuned, WeightChange

# Sets of projections, by the end of their names: self-attention and the queries of cross-attention (paper), keys and
# values of cross-attention (text), those with the queries (cross), all of these (wide), or all matrices of the
# transformer blocks (blocks). Of transformers that have no cross-attention, text is what the text stream gives as keys
# and values; they have no paper's set. Those whose text stream has matrices of its own also have its queries and keys
# (added).
TRAINED = {
    "paper": r"attn1\.(to_[qkv]|to_out\.0)|attn2\.to_q",
    "text": r"attn2\.to_[kv]",
    "cross": r"attn2\.to_[qkv]",
    "wide": r"attn1\.(to_[qkv]|to_out\.0)|attn2\.to_[qkv]",
    "blocks": r"attn[12]\.(to_[qkv]|to_out\.0)|ff\.net\.(0\.proj|2)",
}
ADDED = "added"
FUSED = re.compile(r"qkv\.weight$")  # queries, keys and values in one matrix, from above
FUSED_PARTS = {"text": slice(1, None), ADDED: slice(0, 2)}  # of the three, what a set trains; otherwise all


class TuningError(ValueError):
    """The settings are invalid, or this model cannot be tuned with them."""


def choose(names: Iterable[str], trained: str, sets: Mapping[str, str] = TRAINED) -> tuple[str, ...]:
    """The parameters of one of the sets: regular expressions for the end of a module's name. Raises TuningError."""
    if trained not in sets:
        raise TuningError(f"'projections' is '{trained}', which this model has not; choose one of {', '.join(sets)}.")
    found = re.compile(rf"\.({sets[trained]})\.weight$")
    return tuple(name for name in names if found.search(name))


class Trained:
    """The projections in training: W of the unedited model, and the change dW that is learned.

    parts: of a fused matrix of queries, keys and values, train only these of the three.

    root: L (in, in) of closed_form/metric.py. The projections in `rooted` train low-rank factors on L^T z:
    dW = up @ down @ L^T. They share one copy of L, which in SDXL takes 16 MB and has 140 projections to serve.
    """

    def __init__(
        self,
        start: Mapping[str, Tensor],
        rank: int,
        generator: Generator,
        root: Tensor | None = None,
        rooted: Collection[str] = (),
        parts: slice = slice(None),
    ):
        self.start = start  # (out, in) each
        self.rows = {name: _trained_rows(name, W, parts) for name, W in start.items()}
        self.factors = {name: _initial_factors(W[self.rows[name]], rank, generator) for name, W in start.items()}
        self.rooted = frozenset(rooted) if rank else frozenset()
        self.root = root.to(start[next(iter(rooted))].device) if root is not None and self.rooted else None
        self.parameters = [factor for factors in self.factors.values() for factor in factors]
        self.norm = math.sqrt(sum(W.float().square().sum().item() for W in start.values()))

    @property
    def changes(self) -> dict[str, WeightChange]:
        """dW by name, attached to the autograd graph of the factors."""
        return {name: WeightChange(self._read(name, factors)) for name, factors in self.factors.items()}

    def _read(self, name: str, factors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rows, height = self.rows[name], len(self.start[name])
        if rows.stop - rows.start < height:
            up, *down = factors
            factors = (pad(up, (0, 0, rows.start, height - rows.stop)), *down)
        if self.root is None or name not in self.rooted:
            return factors
        return (*factors[:-1], factors[-1] @ self.root.mT)

    def overrides(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """W + dW by name, added in float32, attached to the graph of dW."""
        return {name: (self.start[name].float() + dW.dense()).to(dtype) for name, dW in self.changes.items()}

    def unscale(self, scale: float) -> bool:
        """Divides the gradients by `scale`. Returns whether they are all finite."""
        gradients = [factor.grad for factor in self.parameters if factor.grad is not None]
        for gradient in gradients:
            gradient /= scale
        return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)

    @torch.no_grad()
    def change(self) -> float:
        """|dW| / |W|."""
        total = torch.zeros(())
        for dW in self.changes.values():
            total = total + dW.square_norm()
        return math.sqrt(max(0.0, total.item())) / self.norm

    def result(self) -> Tuned:
        """dW by module, on the CPU and without its graph."""
        return {
            name.removesuffix(".weight"): WeightChange(tuple(factor.detach().cpu().clone() for factor in dW.factors))
            for name, dW in self.changes.items()
        }


def _trained_rows(name: str, W: Tensor, parts: slice) -> slice:
    """The rows of W that `parts` means, if W is fused: there are as many queries as W has columns."""
    height, width = W.shape
    if not FUSED.search(name) or height <= width:
        return slice(0, height)
    return slice((parts.start or 0) * width, height if parts.stop is None else parts.stop * width)


def _initial_factors(W: Tensor, rank: int, generator: Generator) -> tuple[Tensor, ...]:
    """Factors whose product is 0: a zero matrix, or a zero `up` and a random `down`."""
    n_out, n_in = W.shape
    if rank == 0:
        factors = (torch.zeros(n_out, n_in),)
    else:
        rank = min(rank, n_out, n_in)
        down = torch.randn(rank, n_in, generator=generator) / n_in**0.5
        factors = (torch.zeros(n_out, rank), down)
    return tuple(factor.to(W.device).requires_grad_() for factor in factors)
