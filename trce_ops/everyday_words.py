"""Everyday words to keep: every word of words.py in a sentence, but for the quarter that is most like a concept.

Everyday captions show what ordinary prompts are like as a whole; what they are about is a few hundred things. A map
that is held by them alone takes "something that looks like" whatever it does not know for a description of the thing
that is erased. But some of the words are descriptions of it, and kept they would bring it back: how near a word is to a
concept is told by what the model reads (reading.py). For colours and styles, which such sentences describe whatever the
word, this has not been enough: there nothing but captions and the keep list is kept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .embeddings import Progress, TextEncoder
from .neighbours import likeness
from .preserve import Kept, keep_moment
from .reading import seen
from .templates import article, mentions
from .words import WORDS

SENTENCES = ("{}", "a picture of {}", "something that looks like {}", "something in the colour of {}")
FAR = 0.75  # the share of the words that may be kept


def sentence(row: int) -> str:
    """The word of that row in one of the sentences, which take turns."""
    return SENTENCES[row % len(SENTENCES)].format(f"{article(WORDS[row])} {WORDS[row]}")


@dataclass(frozen=True)
class Words:
    """The words that an encoder tells apart, in their sentences, and which of them are far from all concepts."""

    rows: tuple[int, ...]
    kept: Kept  # of all of them, their padding left out
    far: tuple[bool, ...]


def look_up(
    concepts: Sequence[str],
    encoder: TextEncoder,
    reading: Tensor | None = None,  # (d, d) G, see reading.py; None for all directions alike
    cache_dir: str | os.PathLike | None = None,
    progress: Progress = lambda *_: None,
) -> Words:
    """All words, from the cache but for their distance: every concept is put in the same sentences and compared."""
    keep = partial(keep_moment, encoder=encoder, progress=progress, pads=False)
    rows: dict[tuple[int, ...], int] = {}
    for row in range(len(WORDS)):
        rows.setdefault(encoder.tokenize(sentence(row)), row)
    kept = keep([sentence(row) for row in rows.values()], cache_dir=cache_dir)
    turn = torch.tensor(list(rows.values())) % len(SENTENCES)
    alike = torch.zeros(len(turn))
    for i in turn.unique().tolist():
        z = keep([SENTENCES[i].format(concept) for concept in concepts]).samples[:, 0]
        alike[turn == i] = likeness(seen(z, reading), seen(kept.samples[turn == i, 0], reading)).amax(0)
    limit = alike.quantile(FAR).item()
    far = (x <= limit and not mentions(WORDS[row], concepts) for x, row in zip(alike.tolist(), rows.values()))
    return Words(tuple(rows.values()), kept, tuple(far))


def far_words(words: Words) -> list[int]:
    return [row for row, far in zip(words.rows, words.far) if far]


def keep_words(words: Words, encoder: TextEncoder, progress: Progress) -> Kept | None:
    """The moment of the far words alone; None when there are none."""
    if not any(words.far):
        return None
    near = [i for i, far in enumerate(words.far) if not far]
    if not near:
        return words.kept
    part = keep_moment([sentence(words.rows[i]) for i in near], encoder, None, progress, pads=False)
    return words.kept.without(near, part)
