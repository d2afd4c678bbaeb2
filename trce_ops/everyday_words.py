"""Everyday words to keep: every word of words.py in a sentence, but for those that are near to a concept.

Everyday captions show what ordinary prompts are like as a whole; what they are about is a few hundred things. A map
that is held by them alone takes "something in the colour of" whatever it does not know for a description of the colour
that is erased.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import torch
from torch import Generator

from .embeddings import Progress, TextEncoder
from .neighbours import embed_texts, likeness
from .preserve import Kept, keep_moment
from .templates import article, bare, mentions, qualities, things
from .words import WORDS

SENTENCES = ("{}", "a picture of {}", "something that looks like {}", "something in the colour of {}")
LIKENESSES = ("in the colour of", "that looks like")
NEAR = 0.3  # likeness to a concept from which on a word is not kept


def sentence(row: int) -> str:
    """The word of that row in one of the sentences, which take turns."""
    return SENTENCES[row % len(SENTENCES)].format(f"{article(WORDS[row])} {WORDS[row]}")


def likened(row: int, keep: Sequence[str], generator: Generator) -> str:
    """The same word as what a thing of the keep list is like: "a striped star in the colour of an ocean"."""

    def pick(lines: Sequence[str]) -> list[str]:
        return [lines[int(torch.randint(len(lines), (), generator=generator))]] if lines else []

    parts = [*pick(qualities(keep)), *pick(things(keep)), *pick(LIKENESSES), article(WORDS[row]), WORDS[row]]
    text = " ".join(parts)
    return f"{article(text)} {text}"


def far_words(concepts: Sequence[str], encoder: TextEncoder, progress: Progress = lambda *_: None) -> list[int]:
    """The rows of the words that may be kept: no concept is in them, and the text encoder tells them from every one."""
    z = embed_texts([bare(text) for text in (*concepts, *WORDS)], encoder, progress)
    alike = likeness(z[: len(concepts)], z[len(concepts) :]).amax(0).tolist()
    return [row for row, word in enumerate(WORDS) if alike[row] < NEAR and not mentions(word, concepts)]


def keep_words(
    concepts: Sequence[str],
    encoder: TextEncoder,
    cache_dir: str | os.PathLike | None,
    progress: Progress,
) -> Kept | None:
    """The moment of the sentences of far words, their padding left out; None when there are none.

    The moment of all sentences is cached; the near ones are encoded again and subtracted. Sentences that the encoder
    does not tell apart are one, and near when one of them is.
    """
    keep = partial(keep_moment, encoder=encoder, progress=progress, pads=False)
    far = set(far_words(concepts, encoder, progress))
    found: dict[tuple[int, ...], list[int]] = {}
    for row in range(len(WORDS)):
        found.setdefault(encoder.tokenize(sentence(row)), []).append(row)
    captions = [sentence(rows[0]) for rows in found.values()]
    near = [i for i, rows in enumerate(found.values()) if not far.issuperset(rows)]
    if len(near) == len(captions):
        return None
    kept = keep(captions, cache_dir=cache_dir)
    return kept.without(near, keep([captions[i] for i in near])) if near else kept
