"""Batches of embedded prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..delta.low_rank import ContextMap


@dataclass(frozen=True)
class Texts:
    """n prompts: their token embeddings and, for models that read them, their pooled vectors."""

    sequence: Tensor  # (n, L, d)
    pooled: Tensor | None = None  # (n, p)

    def __len__(self) -> int:
        return len(self.sequence)

    def __getitem__(self, rows: slice | Tensor) -> Texts:
        return self.each(lambda z: z[rows])

    def each(self, change: Callable[[Tensor], Tensor]) -> Texts:
        """The texts with `change` applied to both parts."""
        return Texts(change(self.sequence), self.pooled if self.pooled is None else change(self.pooled))

    def to(self, device: torch.device) -> Texts:
        return self.each(lambda z: z.to(device))

    def repeat(self, n: int) -> Texts:
        """One prompt n times, without copying it."""
        return self.each(lambda z: z.expand(n, *z.shape[1:]))

    def moved(self, maps: Mapping[str, ContextMap], share: Tensor | None = None) -> Texts:  # share (n,)
        """c + share * D c, by the maps for `context` and `pooled`: the texts after stage 1, or after a share of it."""
        share = torch.ones(len(self)) if share is None else share
        sequence = self.sequence + share[:, None, None] * maps["context"].shift(self.sequence)
        if self.pooled is None or "pooled" not in maps:
            return Texts(sequence, self.pooled)
        return Texts(sequence, self.pooled + share[:, None] * maps["pooled"].shift(self.pooled))

    @staticmethod
    def cat(texts: Sequence[Texts]) -> Texts:
        """The prompts of several batches in one."""
        pooled = None if texts[0].pooled is None else torch.cat([part.pooled for part in texts])
        return Texts(torch.cat([part.sequence for part in texts]), pooled)
