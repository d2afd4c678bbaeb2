"""The map T on text embeddings that a closed-form erasure comes down to, held as D = T - I."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ContextMap:
    """D = T - I, float32, either dense or as the product of two factors.

    On embeddings it reads c' = T c; on every projection that reads them, W' = W T. The two are the same thing.
    """

    factors: tuple[Tensor, ...]  # (D (d, d),) or (up (d, r), down (r, d)) with D = up @ down

    @property
    def width(self) -> int:
        return self.factors[0].shape[0]

    @property
    def rank(self) -> int:
        """Inner size of the factors; the full width for a dense map."""
        return self.factors[0].shape[1]

    def dense(self) -> Tensor:  # (d, d)
        """D as one matrix."""
        return self.factors[0] if len(self.factors) == 1 else self.factors[0] @ self.factors[1]

    def shift(self, c: Tensor) -> Tensor:  # c (..., d) -> (..., d)
        """D c for rows of embeddings, in the precision of c."""
        for factor in reversed(self.factors):
            c = c @ factor.to(c).mT
        return c

    def apply(self, c: Tensor, strength: float = 1.0) -> Tensor:  # c (..., d) -> (..., d)
        """c + strength * D c for rows of embeddings: the conditioning that an erased model sees."""
        return c + strength * self.shift(c)
