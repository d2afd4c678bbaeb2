"""Chooses and embeds the prompts that tuning samples trajectories for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, zip_longest

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from ..progress import StepProgress
from ..text.captions import BENIGN_CAPTIONS, COMPARISONS
from ..text.concepts import ConceptPair
from ..text.embeddings import TextEncoder, encode_batches
from ..text.prompts import PromptPair, expand, fill, in_company, is_quality, sentences
from ..text.spelling import bare, mentions
from ..text.tokens import CHUNK, Ids
from .data import Contexts
from .settings import TuneSettings
from .text_batch import Texts

CAPTIONS = (BENIGN_CAPTIONS, COMPARISONS)


@dataclass(frozen=True)
class Request:
    """What to erase and what to keep.

    templates: use sentences around the concepts and the keep list. captions: groups of captions to keep; those that
    mention a concept are left out. others: by concept, equally many words each whose attention the objective compares
    with the concept's. company: have colours and styles beside kept prompts too, for objectives that compare with the
    safe target, which is in the same company; others would erase the company as well.
    """

    pairs: Sequence[ConceptPair]
    keep: Sequence[str] = ()
    templates: bool = True
    captions: Sequence[Sequence[str]] = CAPTIONS
    others: Mapping[str, Sequence[str]] = field(default_factory=dict)
    company: bool = True

    @property
    def concepts(self) -> list[str]:
        return [pair.concept for pair in self.pairs]


def draw_in_turn(groups: Iterable[Sequence], count: int, generator: Generator) -> list:
    """At most `count` items, taken from the shuffled groups in turn, so that every group is covered equally."""
    shuffled = [[group[i] for i in torch.randperm(len(group), generator=generator).tolist()] for group in groups]
    return [item for turn in zip_longest(*shuffled) for item in turn if item is not None][:count]


def draw_unwanted(request: Request, count: int, generator: Generator) -> list[PromptPair]:
    """Prompts with a concept and the same prompts with its safe target.

    Half of the prompts of a colour or a style, which seldom stands alone, have it in the company of what is kept, if
    there are enough prompts for both.
    """
    templates = sentences(request.concepts, request.templates)
    others = [*request.keep, *chain.from_iterable(request.captions)] if request.templates and request.company else []
    company = in_company(text for text in others if not mentions(text, request.concepts))
    groups = [expand([pair], templates) for pair in request.pairs]
    groups += [expand([pair], company) for pair in request.pairs if company and is_quality(pair.concept)]
    return draw_in_turn(groups, count, generator)


def draw_kept(request: Request, count: int, generator: Generator) -> list[str]:
    """A third of the prompts are lines of the keep list in the concepts' sentences, more if there are more lines than
    that; the others, at least a third, are captions."""
    templates = sentences(request.concepts, request.templates)
    listed = [[fill(template, line)[0] for template in templates] for line in request.keep]
    captions = [
        [text for text in group if not mentions(text, request.concepts, plurals=False)] for group in request.captions
    ]
    kept = draw_in_turn(listed, max(count // 3, min(len(listed), 2 * count // 3)), generator)
    return kept + draw_in_turn(captions, count - len(kept), generator)


def draw_prompts(request: Request, settings: TuneSettings, generator: Generator) -> tuple[list[PromptPair], list[str]]:
    """One unwanted and one kept prompt per trajectory, or as many as there are."""
    unwanted = draw_unwanted(request, settings.trajectories, generator)
    return unwanted, draw_kept(request, settings.keep_count, generator) if settings.keep else []


def with_others(unwanted: Sequence[PromptPair], others: Mapping[str, Sequence[str]]) -> list[PromptPair]:
    """Every unwanted prompt with each of the other words in the concept's place, without its article if the concept
    has none there."""
    found = []
    for prompt in unwanted:
        place = re.compile(rf"(?<!\w){re.escape(prompt.keyword)}(?!\w)")
        for word in others.get(prompt.concept, ()):
            keyword = bare(word) if bare(prompt.keyword) == prompt.keyword else word
            source = keyword.join(place.split(prompt.source))
            found.append(replace(prompt, source=source, keyword=keyword))
    return found


def marked(texts: Texts, prompts: Sequence[PromptPair], encoders: Mapping[str, TextEncoder]) -> Texts:
    """The texts with marks on the tokens of their keywords, among CLIP's rows too. Raises TokenError."""
    marks = torch.zeros(texts.sequence.shape[:2])
    for row, prompt in zip(marks, prompts, strict=True):
        start = 0
        for kind in ("clip", "context"):
            if encoder := encoders.get(kind):
                ids = encoder.tokenize(prompt.source)
                row[[start + position for position in encoder.locate(ids, prompt.keyword).keyword]] = 1
                start += CHUNK
    return replace(texts, marks=marks)


def encode_prompts(
    unwanted: Sequence[PromptPair],
    keep: Sequence[str],
    encoders: Mapping[str, TextEncoder],
    progress: StepProgress,
    others: Sequence[PromptPair] = (),
) -> Contexts:
    """encoders: by kind of text, `context` and, for models that read them, `pooled`, and `clip` for rows of CLIP before
    the others. others: see with_others; with them the concepts and these words are marked. Raises TokenError."""
    columns = [[pair.source for pair in unwanted], [pair.target for pair in unwanted], [""], keep]
    columns.append([pair.source for pair in others])
    encoder, pooled, clip = encoders["context"], encoders.get("pooled"), encoders.get("clip")
    ids = [[encoder.tokenize(text) for text in column] for column in columns]
    rows = {row: encoder.length(row) for column in ids for row in column}
    reading = partial(progress, "Prompts to tune on")
    sequences: dict[Ids, Tensor] = {}
    vectors: dict[Ids, Tensor] = {}
    for batch, z in encode_batches(encoder, rows, reading):
        sequences.update((row, embeddings[: rows[row]]) for row, embeddings in zip(batch, z))
    if pooled:
        for batch, z in encode_batches(pooled, dict.fromkeys(rows, 1), reading):
            vectors.update(zip(batch, z[:, 0]))

    if clip:  # reads some texts alike that T5 tells apart: "a Cat" and "a cat"
        of = {row: clip.tokenize(text) for texts, part in zip(columns, ids) for text, row in zip(texts, part)}
        before: dict[Ids, Tensor] = {}
        for batch, z in encode_batches(clip, dict.fromkeys(of.values(), CHUNK), reading):
            before.update(zip(batch, pad(z, (0, encoder.width - clip.width))))
        sequences = {row: torch.cat([before[of[row]], z]) for row, z in sequences.items()}
        rows = {row: len(z) for row, z in sequences.items()}

    def gather(column: Sequence[Ids]) -> Texts:
        sequence = pad_sequence([sequences[row] for row in column], batch_first=True)
        lengths = torch.tensor([rows[row] for row in column]) if len(set(rows.values())) > 1 else None
        return Texts(sequence, torch.stack([vectors[row] for row in column]) if pooled else None, lengths)

    neg, safe, empty = map(gather, ids[:3])
    kept = gather(ids[3]) if keep else None
    if not others:
        return Contexts(neg, safe, empty, kept)
    return Contexts(marked(neg, unwanted, encoders), safe, empty, kept, marked(gather(ids[4]), others, encoders))
