"""The preserve moment P: what the embeddings of ordinary prompts look like, per text encoder.

P is the mean of k k^T over all tokens of a caption (in each layer that is read) and over all captions, not the sum, so
that 'preserve' means the same for any number of them. It depends on the text encoder alone and takes a while on a CPU,
so it is kept on disk.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..files.atomic import load_checked, save_checked
from ..progress import Progress
from ..text.embeddings import TextEncoder, encode_batches

log = logging.getLogger(__name__)

VERSION = 3  # of the cache file; a change in what is computed raises it
CACHE_FILES = 32  # the least recently used ones beyond these are removed


@dataclass(frozen=True)
class Kept:
    """Ordinary prompts as one text encoder sees them."""

    moment: Tensor  # P (d, d) float64, per-token mean of k k^T
    samples: Tensor  # (m, 2, d) float32: first EoT and last position of every caption, to measure what is moved

    def without(self, rows: Sequence[int], part: Kept) -> Kept:
        """The same less the captions in `rows`, whose own moment `part` holds."""
        n, m = len(self.samples), len(rows)
        left = [row for row in range(n) if row not in set(rows)]
        return Kept((n * self.moment - m * part.moment) / (n - m), self.samples[left])


def keep_moment(
    captions: Sequence[str],
    encoder: TextEncoder,
    cache_dir: str | os.PathLike | None = None,
    progress: Progress = lambda *_: None,
) -> Kept:
    """P over `captions`, from the cache in `cache_dir` when it is there.

    A cache file that cannot be read is computed again and a folder that cannot be written is said in the log:
    neither stops an erasure. Raises TokenError for a caption longer than one chunk.
    """
    key = json.dumps([VERSION, encoder.fingerprint, list(captions)])
    path = cache_dir and Path(cache_dir) / f"preserve_{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    kept = path and _read(path, encoder.width)
    if not kept:
        kept = _compute(captions, encoder, progress)
        if path:
            _write(path, kept)
    return kept


def _compute(captions: Sequence[str], encoder: TextEncoder, progress: Progress) -> Kept:
    P = torch.zeros(encoder.width, encoder.width, dtype=torch.float64)
    rows = {ids: encoder.length(ids) for ids in map(encoder.tokenize, captions)}
    samples = {}
    for batch, z in encode_batches(encoder, rows, progress):
        for ids, k in zip(batch, z.double()):
            k = k[: rows[ids]]
            samples[ids] = k[[encoder.locate(ids).first_eot, -1], -encoder.width :].float()  # in the last layer
            k = k.reshape(-1, encoder.width)
            P += k.mT @ k / len(k)
    return Kept(P / len(rows), torch.stack([samples[ids] for ids in rows]))


def _read(path: Path, width: int) -> Kept | None:
    try:
        kept = Kept(**load_checked(path))
        sound = kept.moment.shape == (width, width) and kept.samples.shape[1:] == (2, width)
        if not sound or not all(tensor.isfinite().all() for tensor in vars(kept).values()):
            raise ValueError("its content does not fit")
        return kept
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        log.warning("The cached preserve moment %s cannot be used (%s); computing it again.", path.name, error)
        return None


def _write(path: Path, kept: Kept) -> None:
    try:
        save_checked(path, vars(kept))
        newest_first = sorted(path.parent.glob("preserve_*.safetensors"), key=os.path.getmtime, reverse=True)
        for old in newest_first[CACHE_FILES:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        log.warning("The preserve moment cannot be cached in %s (%s); it will be computed again.", path.parent, error)
