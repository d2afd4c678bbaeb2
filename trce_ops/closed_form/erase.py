"""Stage 1 of TRCE from concepts to an erased delta: prompts, embeddings, preserve moment, map, figures."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
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
from ..text.concepts import ConceptError, ConceptPair, format_concepts
from ..text.embeddings import EmbeddingPairs, TextEncoder, embed_pairs
from ..text.prompts import expand, fill, sentences
from ..text.spelling import mentions
from ..text.tokens import TokenError, TokenWeights
from ..version import __version__
from .conflicts import conflicts
from .preserve import Kept, distinct, keep_moment
from .report import Report, kept_ratio, mean_by, moved_ratios
from .solve import factorize, solve_factors

log = logging.getLogger(__name__)

EVERYDAY = "everyday captions"
# The defaults of `preserve` with the metric, alone and before tuning, and what keeps about as much without it
PRESERVE_WITHOUT_METRIC = {15.0: 3.0, 50.0: 10.0}
POOLED = TokenWeights(sot=0, keyword=0, first_eot=1, pads=0)


@dataclass(frozen=True)
class EraseSettings:
    """weights: how much each token role is moved. preserve (eta), ridge (mu): see solve.solve_factors.
    templates: erase every concept in sentences, not only as its bare name.
    metric: weight embedding directions by how strongly the model responds to them (metric.py); off: all directions
    count alike, as in the paper."""

    weights: TokenWeights = field(default_factory=TokenWeights)
    preserve: float = 15.0
    ridge: float = 0.3
    templates: bool = True
    metric: bool = True


def without_metric(settings: EraseSettings) -> EraseSettings:
    """The settings for text whose metric cannot be computed; a `preserve` that is no default stays."""
    preserve = PRESERVE_WITHOUT_METRIC.get(settings.preserve, settings.preserve)
    return replace(settings, metric=False, preserve=preserve)


def keep_moments(
    keep: Sequence[str],
    concepts: Sequence[str],
    templates: Sequence[str],
    encoder: TextEncoder,
    cache_dir: str | os.PathLike | None,
    progress: StepProgress,
    captions: Sequence[str] | None = None,
) -> dict[str, Kept]:
    """Statistics of what is kept, by name: `captions` (BENIGN_CAPTIONS if None), and the keep list in every template.

    Captions that mention a concept are left out, because keeping them would protect the concept. The moment of all
    captions is cached; the few that are left out are encoded again and subtracted.
    """
    captions = BENIGN_CAPTIONS if captions is None else captions
    step = partial(progress, "Everyday captions")
    everyday = keep_moment(captions, encoder, cache_dir, step)
    if named := [caption for caption in captions if mentions(caption, concepts, plurals=False)]:
        prompts, left_out = (distinct(texts, encoder) for texts in (captions, named))
        if len(left_out) == len(prompts):
            raise ConceptError(
                "'concepts' contains words that occur in every everyday caption, such as 'a' or 'in', so nothing could "
                "be kept; name things instead."
            )
        rows = [prompts.index(ids) for ids in left_out]
        everyday = everyday.without(rows, keep_moment(named, encoder, None, step))
    kept = {EVERYDAY: everyday}
    if keep:
        lines = list(dict.fromkeys(fill(template, line)[0] for line in keep for template in templates))
        try:
            kept["keep list"] = keep_moment(lines, encoder, cache_dir, partial(progress, "Keep list"))
        except TokenError as error:
            raise TokenError(f"A line of 'keep' cannot be used. {error}") from None
    return kept


@dataclass(frozen=True)
class Solved:
    """The context map of one kind of text, with its inputs and timings."""

    context_map: ContextMap
    pairs: EmbeddingPairs
    kept: Mapping[str, Kept]
    seconds: Mapping[str, float]  # per step


def erase(
    concepts: Sequence[ConceptPair],
    keep: Sequence[str],
    encoders: Mapping[str, TextEncoder],
    settings: EraseSettings = EraseSettings(),
    *,
    family: str,
    metrics: Mapping[str, Tensor | str] = MappingProxyType({}),  # (d, d) each
    space: str = "embedding",
    cache_dir: str | os.PathLike | None = None,
    progress: StepProgress = lambda *_: None,
    captions: Sequence[str] | None = None,
) -> tuple[ErasedDelta, Report]:
    """Solve for the context map that maps every concept to its safe target, one map for each kind of text.

    encoders: by the kinds of text that the model reads, named as in delta.file.KINDS; `context` is required. The pooled
    vector counts as a first EoT of weight 1, whatever the settings say: if it stayed as it is, the concept would come
    back.
    metrics: by kind of text, G of the model's projections (metric.py), or the reason why it cannot be computed, which
    goes into the report. A kind without one uses the identity.
    space: stored in the delta; see DeltaInfo.space. captions: see keep_moments.
    P is the mean of the captions' moment and the keep list's, so a short keep list counts as much as all captions.
    The same inputs give the same delta, bit for bit, on one machine.
    Raises TokenError, ConceptError and NotPositiveDefinite (all ValueError), and whatever `progress` raises to cancel.
    """
    names = [pair.concept for pair in concepts]
    templates = sentences(names, settings.templates)
    prompts = expand(concepts, templates)

    def solve(kind: str, encoder: TextEncoder) -> Solved:
        start = perf_counter()
        G = metrics.get(kind) if settings.metric else None
        given = without_metric(settings) if isinstance(G, str) else settings
        weights = POOLED if kind == "pooled" else settings.weights
        pairs = embed_pairs(prompts, encoder, weights, partial(progress, "Concepts"))
        encoded = perf_counter()
        kept = keep_moments(keep, names, templates, encoder, cache_dir, progress, captions)
        preserved = perf_counter()
        D = solve_factors(
            *(pairs.sources, pairs.targets, pairs.weights),
            torch.stack([part.moment for part in kept.values()]).mean(0),
            preserve_scale=given.preserve,
            ridge=given.ridge,
            metric=G if isinstance(G, Tensor) else None,
        )
        context_map = factorize(*D)
        times = (encoded - start, preserved - encoded, perf_counter() - preserved)
        return Solved(context_map, pairs, kept, dict(zip(("encoding", "preserve moment", "solving"), times)))

    solved = {kind: solve(kind, encoder) for kind, encoder in encoders.items()}
    main = solved["context"]
    others = {kind: part for kind, part in solved.items() if part is not main}
    pairs, context_map = main.pairs, main.context_map
    ratios = moved_ratios(context_map, pairs)
    moved = mean_by(ratios, pairs.roles, asdict(settings.weights))
    kept = {name: kept_ratio(context_map, part.samples.flatten(0, 1)) for name, part in main.kept.items()}
    for kind, other in others.items():
        moved.update(mean_by(moved_ratios(other.context_map, other.pairs), [kind] * len(other.pairs), [kind]))
        kept[kind] = kept_ratio(other.context_map, other.kept[EVERYDAY].samples.flatten(0, 1))
    moved_concepts = mean_by(ratios, pairs.concepts, dict.fromkeys(pairs.concepts))
    shared = {concept: moved_concepts[other] for concept, other in pairs.alike.items() if other in moved_concepts}
    moved_concepts = shared | moved_concepts
    report = Report(
        prompts=len(prompts),
        pairs=len(pairs),
        width=context_map.width,
        rank=context_map.rank,
        moved=moved,
        moved_concepts={
            format_concepts([pair]): moved_concepts[pair.concept] for pair in concepts if pair.concept in moved_concepts
        },
        kept=kept,
        seconds={step: sum(part.seconds[step] for part in solved.values()) for step in main.seconds},
        keep=keep,
        notes=(*conflicts(concepts, keep, moved_concepts), *_unmeasured(settings, metrics)),
    )
    if isinstance(metrics.get("context"), str):
        settings = without_metric(settings)
    info = DeltaInfo(
        family=family,
        encoder=encoders["context"].fingerprint,
        concepts=tuple(concepts),
        keep=tuple(keep),
        settings={
            **{f"weight_{role}": weight for role, weight in asdict(settings.weights).items()},
            **{name: getattr(settings, name) for name in ("preserve", "ridge", "templates")},
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
    return ErasedDelta({kind: part.context_map for kind, part in solved.items()}, info), report


def _unmeasured(settings: EraseSettings, metrics: Mapping[str, Tensor | str]) -> Iterator[str]:
    for kind, reason in metrics.items():
        if settings.metric and isinstance(reason, str):
            yield (
                f"The {kind} text is erased without the metric, with 'preserve' at "
                f"{without_metric(settings).preserve:g}: {reason}"
            )
