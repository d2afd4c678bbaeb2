"""The neighbours of a concept: which of a list of texts a text encoder puts closest to it.

Text encoders give all texts much in common, so that raw cosines are all high. What the texts of the list have in common
is taken off first; what is left tells them apart.
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
    """One embedding per text: the first EoT, or the mean of the tokens that take its part where there is none."""
    ids = [encoder.tokenize(text) for text in texts]
    places: dict[Ids, list[int]] = {}
    for row in ids:
        roles = encoder.locate(row)
        places[row] = [*roles.others, roles.first_eot]
    embedded = {}
    for batch, z in encode_prefixes(encoder, {row: 1 + max(at) for row, at in places.items()}, progress):
        embedded.update((row, rows[places[row]].mean(0)) for row, rows in zip(batch, z))
    return torch.stack([embedded[row] for row in ids])


def likeness(texts: Tensor, others: Tensor) -> Tensor:  # (n, d), (m, d) -> (n, m)
    """Cosines, in [-1, 1], once the mean of `others` is taken off both."""
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
    """For every text, up to `count` of the words with their likeness, the most alike first; none under `least`.

    Articles make no difference. A word that has the text in it is no neighbour: what moves the one moves the other. Its
    plural is one, for it has tokens of its own.
    """
    bared = [bare(text) for text in (*texts, *words)]
    z = embed_texts(bared, encoder, progress)
    table = likeness(z[: len(texts)], z[len(texts) :])
    found = []
    for text, row in zip(bared, table):
        ranked = ((words[i], row[i].item()) for i in row.argsort(descending=True, stable=True).tolist())
        found.append([(w, x) for w, x in ranked if x >= least and not mentions(w, [text], plurals=False)][:count])
    return found
