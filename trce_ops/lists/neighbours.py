"""Nearest neighbours of a concept in a list of texts, by a text encoder.

All texts have much in common, so raw cosines are all high; the mean of the list is subtracted first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..progress import Progress
from ..text.embeddings import TextEncoder, encode_prefixes
from ..text.spelling import bare, mentions
from ..text.tokens import Ids


def embed_texts(texts: Sequence[str], encoder: TextEncoder, progress: Progress = lambda *_: None) -> Tensor:  # (n, d)
    """One embedding per text: the first EoT, or the mean of the tokens that act as it in encoders without one."""
    ids = [encoder.tokenize(text) for text in texts]
    places: dict[Ids, list[int]] = {}
    for row in ids:
        roles = encoder.locate(row)
        places[row] = [*roles.others, roles.first_eot]
    embedded = {}
    for batch, z in encode_prefixes(encoder, {row: 1 + max(at) for row, at in places.items()}, progress):
        embedded.update((row, rows[places[row]].mean(0)) for row, rows in zip(batch, z))
    return torch.stack([embedded[row] for row in ids])


def similarities(texts: Tensor, others: Tensor) -> Tensor:  # (n, d), (m, d) -> (n, m)
    """Cosines, in [-1, 1], after the mean of `others` is subtracted from both."""
    mean = others.mean(0)
    a, b = (torch.nn.functional.normalize(z - mean, dim=1) for z in (texts, others))
    return a @ b.T


def nearest(
    texts: Sequence[str],
    words: Sequence[str],
    encoder: TextEncoder,
    count: int,
    least: float = -1.0,
    progress: Progress = lambda *_: None,
) -> list[list[tuple[str, float]]]:
    """For every text, up to `count` of the words with their similarity, most similar first; none under `least`.

    Articles make no difference. Words that contain the text are skipped, because erasing the text erases them too. Its
    plural counts, because it has tokens of its own.
    """
    bared = [bare(text) for text in (*texts, *words)]
    z = embed_texts(bared, encoder, progress)
    table = similarities(z[: len(texts)], z[len(texts) :])
    found = []
    for text, row in zip(bared, table):
        order: list[int] = row.argsort(descending=True, stable=True).tolist()
        ranked = ((words[i], row[i].item()) for i in order)
        found.append([(w, x) for w, x in ranked if x >= least and not mentions(w, [text], plurals=False)][:count])
    return found
