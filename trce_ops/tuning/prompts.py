"""Chooses and embeds the prompts that tuning samples trajectories for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import zip_longest

import torch
from torch import Generator

from ..delta.file import ErasedDelta
from ..progress import StepProgress
from ..text.captions import BENIGN_CAPTIONS, COMPARISONS
from ..text.embeddings import TextEncoder, encode_batches
from ..text.prompts import company, expand, fill, mentions, sentences
from ..text.tokens import CHUNK, Ids
from .data import Contexts
from .settings import TuneSettings
from .text_batch import Texts


def draw_in_turn(groups: Sequence[Sequence], count: int, generator: Generator) -> list:
    """`count` items at most, drawn from each group in turn, so that all are equally well covered; each item once."""
    shuffled = [[group[i] for i in torch.randperm(len(group), generator=generator).tolist()] for group in groups]
    return [item for turn in zip_longest(*shuffled) for item in turn if item is not None][:count]


def encode_prompts(
    delta: ErasedDelta,
    encoder: TextEncoder,
    pooled: TextEncoder | None,
    settings: TuneSettings,
    generator: Generator,
    progress: StepProgress,
) -> Contexts:
    """Embed as many prompt pairs, and kept prompts, as there are trajectories for, drawn from all of them.

    A concept that qualifies things is in half of its prompts in the company of the keep list. Kept are in equal parts
    the lines of the keep list in the same sentences as the concepts, everyday captions, and captions that describe by
    comparison; the captions mention no concept.
    """
    info = delta.info
    names = [pair.concept for pair in info.concepts]
    templates = sentences(names, info.settings["templates"])
    others = [line for line in info.keep if info.settings["templates"] and not mentions(line, names)]
    ways = [(pair, around) for pair in info.concepts for around in (templates, company(pair.concept, others)) if around]
    pairs = draw_in_turn([expand([pair], around) for pair, around in ways], settings.trajectories, generator)
    listed = [[fill(template, line)[0] for template in templates] for line in info.keep]
    captions = ([text for text in texts if not mentions(text, names)] for texts in (BENIGN_CAPTIONS, COMPARISONS))
    keep = []
    if settings.keep:
        count = settings.keep_count
        keep = draw_in_turn(listed, count // 3, generator)
        keep += draw_in_turn(list(captions), count - len(keep), generator)
    columns = [[pair.source for pair in pairs], [pair.target for pair in pairs], [""], keep]
    ids = [[encoder.tokenize(text) for text in column] for column in columns]
    rows = dict.fromkeys((row for column in ids for row in column), CHUNK)
    embedded, in_one = {}, {}
    for batch, z in encode_batches(encoder, rows, partial(progress, "Prompts to tune on")):
        embedded.update(zip(batch, z))
    if pooled:
        for batch, z in encode_batches(pooled, dict.fromkeys(rows, 1), lambda *_: None):
            in_one.update(zip(batch, z[:, 0]))

    def gather(column: Sequence[Ids]) -> Texts | None:
        sequence, vectors = ([found[row] for row in column] for found in (embedded, in_one or embedded))
        return Texts(torch.stack(sequence), torch.stack(vectors) if in_one else None) if column else None

    return Contexts(*map(gather, ids))
