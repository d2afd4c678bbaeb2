"""Batches of embedded prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..delta.low_rank import ContextMap


@dataclass(frozen=True)
class Texts:
    """n embedded prompts: token embeddings and, for models that read them, pooled vectors."""

    sequence: Tensor  # (n, L, d)
    pooled: Tensor | None = None  # (n, p)

    def __len__(self) -> int:
        return len(self.sequence)

    def __getitem__(self, rows: slice | Tensor) -> Texts:
        return self.each(lambda z: z[rows])

    def each(self, change: Callable[..., Tensor], *others: Texts) -> Texts:
        """Apply `change` to the token embeddings of these and other texts, and to their pooled vectors."""
        pooled = [texts.pooled for texts in (self, *others) if texts.pooled is not None]
        sequence = change(self.sequence, *(texts.sequence for texts in others))
        return Texts(sequence, change(*pooled) if len(pooled) == 1 + len(others) else None)

    def to(self, device: torch.device) -> Texts:
        return self.each(lambda z: z.to(device))

    def repeat(self, n: int) -> Texts:
        """One prompt n times, without copying it."""
        return self.each(lambda z: z.expand(n, *z.shape[1:]))

    def moved(self, maps: Mapping[str, ContextMap], share: Tensor | None = None) -> Texts:  # share (n,)
        """c + share * D c, by the maps for `context` and `pooled`: the prompts mapped all or part of the way."""
        part = torch.ones(len(self)) if share is None else share
        sequence = self.sequence + part[:, None, None] * maps["context"].shift(self.sequence)
        if self.pooled is None or "pooled" not in maps:
            return Texts(sequence, self.pooled)
        return Texts(sequence, self.pooled + part[:, None] * maps["pooled"].shift(self.pooled))

    @staticmethod
    def cat(texts: Sequence[Texts]) -> Texts:
        """The prompts of several batches in one."""
        return texts[0].each(lambda *parts: torch.cat(parts), *texts[1:])
