"""Stage 1 of TRCE from concepts to an erased delta: prompts, embeddings, preserve moment, map, figures."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from time import perf_counter
from types import MappingProxyType

import torch
from torch import Tensor

from ..delta.file import DeltaInfo, ErasedDelta
from ..delta.low_rank import ContextMap
from ..progress import StepProgress
from ..text.captions import BENIGN_CAPTIONS
from ..text.concepts import ConceptError, ConceptPair
from ..text.embeddings import EmbeddingPairs, TextEncoder, embed_pairs
from ..text.prompts import PromptPair, expand, fill, mentions, sentences
from ..text.tokens import TokenError, TokenWeights
from ..version import __version__
from .conflicts import conflicts
from .preserve import Kept, keep_moment
from .report import Report, kept_ratio, mean_by, moved_ratios
from .solve import factorize, solve_factors

log = logging.getLogger(__name__)

EVERYDAY = "everyday captions"
POOLED = TokenWeights(sot=0, keyword=0, first_eot=1, pads=0)


@dataclass(frozen=True)
class EraseSettings:
    """weights: which token roles are moved. preserve (eta), ridge (mu): see solve_context_map.
    templates: put every concept into sentences instead of its bare name.
    metric: tell the concept by what the model reads of the text (metric.py), instead of by all directions alike."""

    weights: TokenWeights = field(default_factory=TokenWeights)
    preserve: float = 5.0
    ridge: float = 0.3
    templates: bool = True
    metric: bool = True


def keep_moments(
    keep: Sequence[str],
    concepts: Sequence[str],
    templates: Sequence[str],
    encoder: TextEncoder,
    cache_dir: str | os.PathLike | None,
    progress: StepProgress,
) -> dict[str, Kept]:
    """What is kept, by name: everyday captions always, the user's list in every template when there is one.

    An everyday caption that mentions a concept would hold on to what is to go. Their moment is cached as a whole;
    the few that are left out are encoded again and subtracted.
    """
    everyday = keep_moment(BENIGN_CAPTIONS, encoder, cache_dir, partial(progress, "Everyday captions"))
    if named := [row for row, caption in enumerate(BENIGN_CAPTIONS) if mentions(caption, concepts)]:
        if len(named) == len(BENIGN_CAPTIONS):
            raise ConceptError(
                "'concepts' names words that every everyday caption has, so that nothing would be left to keep; name "
                "things instead of words such as 'a' and 'in'."
            )
        captions = [BENIGN_CAPTIONS[row] for row in named]
        everyday = everyday.without(named, keep_moment(captions, encoder, None, partial(progress, "Everyday captions")))
    kept = {EVERYDAY: everyday}
    if keep:
        captions = list(dict.fromkeys(fill(template, line)[0] for line in keep for template in templates))
        try:
            kept["keep list"] = keep_moment(captions, encoder, cache_dir, partial(progress, "Keep list"))
        except TokenError as error:
            raise TokenError(f"A line of 'keep' cannot be used. {error}") from None
    return kept


@dataclass(frozen=True)
class Solved:
    """The map for one kind of text and what it was made of."""

    context_map: ContextMap
    pairs: EmbeddingPairs
    kept: Mapping[str, Kept]
    seconds: Mapping[str, float]  # per step


def solve_stream(
    prompts: Sequence[PromptPair],
    keep: Sequence[str],
    concepts: Sequence[str],
    templates: Sequence[str],
    encoder: TextEncoder,
    settings: EraseSettings,
    metric: Tensor | None,  # (d, d)
    cache_dir: str | os.PathLike | None,
    progress: StepProgress,
) -> Solved:
    """Embed the prompts and what is kept with one encoder, and solve for its map."""
    start = perf_counter()
    pairs = embed_pairs(prompts, encoder, settings.weights, partial(progress, "Concepts"))
    encoded = perf_counter()
    kept = keep_moments(keep, concepts, templates, encoder, cache_dir, progress)
    preserved = perf_counter()
    D = solve_factors(
        pairs.sources,
        pairs.targets,
        pairs.weights,
        torch.stack([part.moment for part in kept.values()]).mean(0),
        preserve_scale=settings.preserve,
        ridge=settings.ridge,
        metric=metric if settings.metric else None,
    )
    context_map = factorize(*D)
    seconds = {
        "encoding": encoded - start,
        "preserve moment": preserved - encoded,
        "solving": perf_counter() - preserved,
    }
    return Solved(context_map, pairs, kept, seconds)


def erase(
    concepts: Sequence[ConceptPair],
    keep: Sequence[str],
    encoder: TextEncoder,
    settings: EraseSettings = EraseSettings(),
    *,
    family: str,
    streams: Mapping[str, TextEncoder] = MappingProxyType({}),
    metrics: Mapping[str, Tensor] = MappingProxyType({}),  # (d, d) each
    space: str = "embedding",
    cache_dir: str | os.PathLike | None = None,
    progress: StepProgress = lambda *_: None,
) -> tuple[ErasedDelta, Report]:
    """Find the map that reads every concept as its safe target, and one more for each of `streams`.

    streams: other kinds of text that the model reads, by the names of delta.KINDS. The pooled vector counts as a first
    EoT of weight 1, whatever the settings say: left alone, it would bring the concept back.
    metrics: G of the model's projections by kind of text, `context` among them; see metric.py. Kinds without one are
    read in all directions alike.
    space: said in the delta; see there.
    P is the mean of the everyday captions' moment and the keep list's, so that a short list counts as much as
    the captions do. The same inputs give the same delta, bit for bit, on one machine.
    Raises TokenError, ConceptError and NotPositiveDefinite (all ValueError), and whatever `progress` raises to cancel.
    """
    names = [pair.concept for pair in concepts]
    templates = sentences(names, settings.templates)
    prompts = expand(concepts, templates)

    def solve(kind: str, encoder: TextEncoder) -> Solved:
        given = replace(settings, weights=POOLED) if kind == "pooled" else settings
        return solve_stream(prompts, keep, names, templates, encoder, given, metrics.get(kind), cache_dir, progress)

    main = solve("context", encoder)
    others = {kind: solve(kind, lent) for kind, lent in streams.items()}
    pairs, context_map = main.pairs, main.context_map
    ratios = moved_ratios(context_map, pairs)
    moved = mean_by(ratios, pairs.roles, asdict(settings.weights))
    kept = {name: kept_ratio(context_map, part.samples.flatten(0, 1)) for name, part in main.kept.items()}
    for kind, other in others.items():
        moved.update(mean_by(moved_ratios(other.context_map, other.pairs), [kind] * len(other.pairs), [kind]))
        kept[kind] = kept_ratio(other.context_map, other.kept[EVERYDAY].samples.flatten(0, 1))
    moved_concepts = mean_by(ratios, pairs.concepts, dict.fromkeys(pairs.concepts))
    report = Report(
        prompts=len(prompts),
        pairs=len(pairs),
        width=context_map.width,
        rank=context_map.rank,
        moved=moved,
        moved_concepts=moved_concepts,
        kept=kept,
        seconds={step: sum(part.seconds[step] for part in (main, *others.values())) for step in main.seconds},
        conflicts=conflicts(concepts, keep, moved_concepts),
    )
    info = DeltaInfo(
        family=family,
        encoder=encoder.fingerprint,
        concepts=tuple(concepts),
        keep=tuple(keep),
        settings={
            **{f"weight_{role}": weight for role, weight in asdict(settings.weights).items()},
            "preserve": settings.preserve,
            "ridge": settings.ridge,
            "templates": settings.templates,
            "metric": settings.metric and "context" in metrics,
        },
        measured={
            **{f"moved_{role}": round(value, 4) for role, value in moved.items()},
            **{f"kept_{name.replace(' ', '_')}": round(value, 4) for name, value in report.kept.items()},
        },
        pack_version=__version__,
        space=space,
    )
    log.info("%s", report.text())
    return ErasedDelta(context_map, info, streams={kind: other.context_map for kind, other in others.items()}), report
