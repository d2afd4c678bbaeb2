"""The preserve moment P: the mean second moment of the embeddings of kept prompts, for one text encoder.

P is the mean of k k^T over the tokens of a caption (in every layer that the model reads), then over all captions. It is
a mean and not a sum, so that 'preserve' means the same for any number of captions. P depends on the text encoder alone
and takes a while on a CPU, so it is cached on disk.

Of a causal encoder's padding only the beginning counts: later padding tokens say the same and cost three times as much.
Padding that an encoder gives as zeros says nothing and does not count.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..files.disk_cache import DiskCache
from ..progress import Progress
from ..text.embeddings import TextEncoder, encode_batches
from ..text.prefix_tree import PrefixEncoder
from ..text.tokens import Ids

VERSION = 8  # part of the cache's key; raise it when something else is computed

POSITIONS = 24  # of a caption that count in a causal encoder, more if it is longer: its words and some padding


@dataclass(frozen=True)
class Kept:
    """Statistics of kept prompts under one text encoder. Prompts with the same token ids count once."""

    moment: Tensor  # P (d, d) float64, per-token mean of k k^T
    samples: Tensor  # (m, 2, d) float32: first EoT and last position that counts of every prompt, to measure what moves

    def without(self, rows: Sequence[int], part: Kept) -> Kept:
        """These statistics without the prompts in `rows`; `part` holds the statistics of those."""
        n, m = len(self.samples), len(rows)
        left = [row for row in range(n) if row not in set(rows)]
        return Kept((n * self.moment - m * part.moment) / (n - m), self.samples[left])


def distinct(captions: Sequence[str], encoder: TextEncoder) -> list[Ids]:
    """The token ids of the captions, each once, in order: the prompts that the samples of Kept belong to."""
    return list(dict.fromkeys(map(encoder.tokenize, captions)))


def counted(encoder: TextEncoder, ids: Ids) -> int:
    """How many of a prompt's embeddings count in P."""
    if not isinstance(encoder, PrefixEncoder):
        return encoder.length(ids)
    return min(encoder.length(ids), max(POSITIONS, encoder.locate(ids).first_eot + 1))


def keep_moment(
    captions: Sequence[str],
    encoder: TextEncoder,
    cache_dir: str | os.PathLike | None = None,
    progress: Progress = lambda *_: None,
) -> Kept:
    """P over `captions`, from the cache in `cache_dir` if it is there. Raises TokenError for a caption too long."""

    def parse(tensors: Mapping[str, Tensor]) -> Kept:
        kept, d = Kept(**tensors), encoder.width
        if kept.moment.shape != (d, d) or kept.samples.shape[1:] != (2, d):
            raise ValueError("its shapes do not fit the text encoder")
        return kept

    cache, key = DiskCache(cache_dir, "preserve"), [VERSION, encoder.cache_key, distinct(captions, encoder)]
    if kept := cache.read(key, parse):
        return kept
    P = torch.zeros(encoder.width, encoder.width, dtype=torch.float64)
    rows = {ids: counted(encoder, ids) for ids in distinct(captions, encoder)}
    samples = {}
    for batch, z in encode_batches(encoder, rows, progress):
        for ids, k in zip(batch, z.double()):
            real = k[: rows[ids]].any(1).nonzero()[:, 0]
            real = real if len(real) else torch.arange(rows[ids])  # HiDream has zeros for a pooled vector that it lacks
            ends = [encoder.locate(ids).first_eot, int(real[-1])]
            samples[ids] = k[ends, -encoder.width :].float()  # in the last layer
            k = k[real].reshape(-1, encoder.width)
            P.addmm_(k.mT, k, alpha=1 / len(k))
    kept = Kept(P / len(rows), torch.stack([samples[ids] for ids in rows]))
    cache.write(key, vars(kept))
    return kept
