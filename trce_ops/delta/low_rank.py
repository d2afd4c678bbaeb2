"""Matrices that are stored whole or as the product of two factors: context maps, and changes of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """A matrix M (out, in) in float32, either dense or as up @ down."""

    factors: tuple[Tensor, ...]  # (M (out, in),) or (up (out, r), down (r, in))

    @property
    def shape(self) -> tuple[int, int]:
        return self.factors[0].shape[0], self.factors[-1].shape[1]

    @property
    def rank(self) -> int:
        """Inner size of the factors; the number of columns of a dense matrix."""
        return self.factors[0].shape[1]

    def dense(self) -> Tensor:  # (out, in)
        """M as one matrix."""
        return self.factors[0] if len(self.factors) == 1 else self.factors[0] @ self.factors[1]

    def square_norm(self) -> Tensor:
        """|M|^2, without multiplying the factors out."""
        if len(self.factors) == 1:
            return self.factors[0].square().sum()
        up, down = self.factors
        return ((up.mT @ up) * (down @ down.mT)).sum()


@dataclass(frozen=True)
class ContextMap(LowRank):
    """The map T (d, d) on text embeddings that a closed-form erasure consists of, stored as D = T - I.

    On embeddings it means c' = T c; on every projection that reads them, W' = W T. The two give the same result.
    """

    @property
    def width(self) -> int:
        return self.factors[0].shape[0]

    def shift(self, c: Tensor) -> Tensor:  # c (..., d) -> (..., d)
        """D c for rows of embeddings, in the precision of c."""
        for factor in reversed(self.factors):
            c = c @ factor.to(c).mT
        return c

    def apply(self, c: Tensor, strength: float = 1.0) -> Tensor:  # c (..., d) -> (..., d)
        """c + strength * D c for rows of embeddings: the conditioning that an erased model sees."""
        return c + strength * self.shift(c)


@dataclass(frozen=True)
class WeightChange(LowRank):
    """dW (out, in) of one projection."""

    def after(self, context_map: ContextMap) -> WeightChange:
        """dW T, for a projection that reads text which the map has moved."""
        *up, down = self.factors
        shift = down
        for factor in context_map.factors:
            shift = shift @ factor
        return WeightChange((*up, down + shift))


Tuned = Mapping[str, WeightChange]  # by module, such as "diffusion_model.middle_block.1.[...].attn1.to_q"
