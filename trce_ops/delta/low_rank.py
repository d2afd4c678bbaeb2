"""Matrices stored whole or as two factors: context maps and changes of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """A matrix M (out, in), either dense or as up @ down."""

    factors: tuple[Tensor, ...]  # (M (out, in),) or (up (out, r), down (r, in))

    @property
    def shape(self) -> tuple[int, int]:
        return self.factors[0].shape[0], self.factors[-1].shape[1]

    @property
    def rank(self) -> int:
        """Inner size of the factors; for a dense matrix its number of columns."""
        return self.factors[0].shape[1]

    def dense(self) -> Tensor:  # (out, in)
        """M itself."""
        return self.factors[0] if len(self.factors) == 1 else self.factors[0] @ self.factors[1]

    def square_norm(self) -> Tensor:
        """|M|^2, without multiplying the factors out."""
        if len(self.factors) == 1:
            return self.factors[0].square().sum()
        up, down = self.factors
        return ((up.mT @ up) * (down @ down.mT)).sum()


@dataclass(frozen=True)
class ContextMap(LowRank):
    """The map T (d, d) on text embeddings that a closed-form erasure consists of, stored as D = T - I in float32.

    Mapping the embeddings, c' = T c, and mapping every projection that reads them, W' = W T, give the same result.
    """

    @property
    def width(self) -> int:
        return self.factors[0].shape[0]

    def to(self, device: torch.device, dtype: torch.dtype) -> ContextMap:
        """The map with its factors on a device, in a type."""
        return ContextMap(tuple(factor.to(device, dtype) for factor in self.factors))

    def shift(self, c: Tensor) -> Tensor:  # c (..., d) -> (..., d)
        """D c for rows of embeddings, on the device and in the type of c."""
        for factor in reversed(self.factors):
            c = c @ factor.to(c).mT
        return c

    def apply(self, c: Tensor, strength: float = 1.0) -> Tensor:  # c (..., d) -> (..., d)
        """c + strength * D c for rows of embeddings."""
        return c + strength * self.shift(c)


def shift_text(maps: Mapping[str, ContextMap], c: Tensor) -> Tensor:  # c (..., d) -> (..., d)
    """D c by the map for `context`. With one for `clip`, rows that are zero beyond its width are CLIP's, as SD3 has
    them, and get that one."""
    shift = maps["context"].shift(c)
    if "clip" in maps:
        of_clip, beyond = c.split([maps["clip"].width, c.shape[-1] - maps["clip"].width], -1)
        its = torch.nn.functional.pad(maps["clip"].shift(of_clip), (0, beyond.shape[-1]))
        shift = torch.where((beyond == 0).all(-1, keepdim=True), its, shift)
    return shift


PARTS = {1: ("diff",), 2: ("lora_up", "lora_down")}  # names of a change's factors, by their number


@dataclass(frozen=True)
class WeightChange(LowRank):
    """dW (out, in) of one projection."""

    def named(self, module: str) -> dict[str, Tensor]:
        """The factors by the names they have in files."""
        return dict(zip((f"{module}.{part}" for part in PARTS[len(self.factors)]), self.factors))

    def after(self, context_map: ContextMap) -> WeightChange:
        """dW T, for a projection that reads text moved by the map."""
        *up, down = self.factors
        shift = down
        for factor in context_map.factors:
            shift = shift @ factor
        return WeightChange((*up, down + shift))


Tuned = Mapping[str, WeightChange]  # by module, such as "diffusion_model.middle_block.1.[...].attn1.to_q"
