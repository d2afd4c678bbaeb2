"""Batches of embedded prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..delta.low_rank import ContextMap, shift_text


@dataclass(frozen=True)
class Texts:
    """n embedded prompts: token embeddings and, for models that read them, pooled vectors."""

    sequence: Tensor  # (n, L, d)
    pooled: Tensor | None = None  # (n, p)
    lengths: Tensor | None = None  # (n,) CPU, how many of the L embeddings a prompt has; None for all
    marks: Tensor | None = None  # (n, L) CPU, 1 for the tokens whose attention is asked for, 0 for others

    def __len__(self) -> int:
        return len(self.sequence)

    def __getitem__(self, rows: slice | Tensor) -> Texts:
        lengths, marks = (part if part is None else part[rows] for part in (self.lengths, self.marks))
        return replace(self.each(lambda z: z[rows]), lengths=lengths, marks=marks)

    def each(self, change: Callable[..., Tensor], *others: Texts) -> Texts:
        """Apply `change`, which leaves rows in their places, to the token embeddings of these and other texts, and to
        their pooled vectors."""
        pooled = [texts.pooled for texts in (self, *others) if texts.pooled is not None]
        sequence = change(self.sequence, *(texts.sequence for texts in others))
        changed = change(*pooled) if len(pooled) == 1 + len(others) else None
        return replace(self, sequence=sequence, pooled=changed)

    def to(self, device: torch.device) -> Texts:
        return self.each(lambda z: z.to(device))

    def repeat(self, n: int) -> Texts:
        """One prompt n times, without copying it."""
        lengths = None if self.lengths is None else self.lengths.expand(n)
        marks = None if self.marks is None else self.marks.expand(n, -1)
        return replace(self.each(lambda z: z.expand(n, *z.shape[1:])), lengths=lengths, marks=marks)

    def by_length(self) -> Iterator[tuple[Tensor, Texts]]:
        """The batch by the prompts' lengths: row indices (k,), and those prompts cut to their length."""
        whole = torch.full((len(self),), self.sequence.shape[1])
        lengths = whole if self.lengths is None else self.lengths
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            same = self[rows]
            marks = None if same.marks is None else same.marks[:, :length]
            yield rows, Texts(same.sequence[:, :length], same.pooled, marks=marks)

    def moved(self, maps: Mapping[str, ContextMap]) -> Texts:
        """T c, by the maps for the tokens and for `pooled`."""
        sequence = self.sequence + shift_text(maps, self.sequence)
        if self.pooled is None or "pooled" not in maps:
            return replace(self, sequence=sequence)
        return replace(self, sequence=sequence, pooled=self.pooled + maps["pooled"].shift(self.pooled))

    @staticmethod
    def cat(texts: Sequence[Texts]) -> Texts:
        """The prompts of several batches in one. If some have marks, the others have none marked."""
        longest = max(part.sequence.shape[1] for part in texts)
        sequence = torch.cat([pad(part.sequence, (0, 0, 0, longest - part.sequence.shape[1])) for part in texts])
        marks = None
        if any(part.marks is not None for part in texts):
            each = [torch.zeros(part.sequence.shape[:2]) if part.marks is None else part.marks for part in texts]
            marks = torch.cat([pad(part, (0, longest - part.shape[1])) for part in each])
        pooled = [part.pooled for part in texts if part.pooled is not None]
        lengths = [part.lengths for part in texts if part.lengths is not None]
        return Texts(sequence, torch.cat(pooled) if pooled else None, torch.cat(lengths) if lengths else None, marks)
