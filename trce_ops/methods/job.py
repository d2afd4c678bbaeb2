"""The input and output of every method, and the steps that several methods share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..closed_form.erase import keep_moments
from ..closed_form.preserve import Kept
from ..closed_form.report import moved_ratios
from ..closed_form.solve import factorize, solve_context_map
from ..delta.low_rank import ContextMap, Tuned
from ..progress import StepProgress
from ..text.concepts import ConceptPair
from ..text.embeddings import EmbeddingPairs, TextEncoder, embed_positions
from ..text.prompts import PLAIN, expand, sentences
from ..text.tokens import Roles
from ..tuning.objective import Objective
from ..tuning.prompts import Request
from ..tuning.tune import TunableModel, TuneReport, tune

Positions = Callable[[Roles, Roles], Iterable[tuple[str, int, int, float]]]  # see text.embeddings.pair_positions
TextWeights = Mapping[str, Mapping[str, Tensor]]  # kind of text -> module -> W (out, d or more) float32


class MethodError(ValueError):
    """The method is unknown, or cannot be used on this model or with these settings."""


@dataclass(frozen=True)
class Job:
    """The inputs of a method: concepts, keep list, encoders, and access to the model's weights and predictions."""

    pairs: Sequence[ConceptPair]
    keep: Sequence[str]
    encoders: Mapping[str, TextEncoder]  # by kind of text, `context` first
    weights: Callable[[], TextWeights] | None  # the projections that read the text
    metrics: Callable[[], Mapping[str, Tensor | str]]  # G (d, d) of these by kind of text, see closed_form/metric.py
    model: Callable[[int], TunableModel] | None  # at a resolution in pixels
    family: str
    space: str
    cache_dir: str | os.PathLike | None
    retrain: bool
    progress: StepProgress
    captions: Sequence[str] | None = None  # everyday captions to keep, see keep_moments

    @property
    def concepts(self) -> list[str]:
        return [pair.concept for pair in self.pairs]

    @cached_property
    def text_weights(self) -> TextWeights:
        """What `weights` gives, which takes seconds and gigabytes."""
        if self.weights is None:
            raise MethodError("This method needs the model's projections: pass weights= to erase_with.")
        return self.weights()

    def projections(self, kind: str) -> Mapping[str, Tensor]:
        """The projections that read one kind of text. Raises MethodError for a model that has none."""
        found = self.text_weights.get(kind)
        if not found:
            raise MethodError(
                f"The model has no weights for its {kind} text that this method could edit; choose another method: "
                "uce, mace, realera, leace or trce-closed-form-paper."
            )
        return found

    def tunable(self, resolution: int) -> TunableModel:
        """The model to train, on square pictures of `resolution` pixels a side."""
        if self.model is None:
            raise MethodError("This method trains the model: pass model= to erase_with.")
        return self.model(resolution)

    def templates(self) -> list[str]:
        """The sentences that do not mention a concept themselves."""
        return sentences(self.concepts, True)


@dataclass(frozen=True)
class Edit:
    """What a method changes, with its figures."""

    maps: Mapping[str, ContextMap]  # by kind of text
    tuned: Tuned = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    evaluations: int = 0  # of the model
    details: str = ""  # lines for people
    settings: Mapping[str, Any] | None = None  # that were used, if not those that were given


def edit_maps(job: Job, solve: Callable[[str, TextEncoder], tuple[Tensor, Mapping[str, float]]]) -> Edit:
    """The edit of a method that solves for one map per kind of text: solve(kind, encoder) -> T (d, d) and figures."""
    maps, figures = {}, {}
    for kind, encoder in job.encoders.items():
        T, found = solve(kind, encoder)
        maps[kind] = factorize(T - torch.eye(len(T), dtype=T.dtype))
        figures |= {name if kind == "context" else f"{kind} {name}": value for name, value in found.items()}
    return Edit(maps, figures=figures)


def edit_trained(
    job: Job,
    model: TunableModel,
    settings: Any,  # of the method, with tuning()
    objective: Objective,
    others: Mapping[str, Sequence[str]] = MappingProxyType({}),  # see Request
) -> Edit:
    """The edit of a method that trains the model on an objective of its own, and has no map."""
    settings = replace(settings, **model.sampled)
    maps = {"context": no_map(job.encoders["context"].width)}
    # Negative guidance has no target in the same company, and would erase what is kept with the concept
    request, tuning = Request(job.pairs, job.keep, company=False, others=others), settings.tuning()
    found = tune(request, job.encoders, model, maps, tuning, objective=objective, progress=job.progress)
    figures = {"position": found.positions[-1], "changed": found.changes[-1]} if found.tuned else {}
    return Edit(
        maps, found.tuned, figures, found.evaluations, TuneReport(found, False, tuning).text(), asdict(settings)
    )


def no_map(width: int) -> ContextMap:
    """The map that changes nothing."""
    return ContextMap((torch.zeros(width, 0), torch.zeros(0, width)))


def solve_sums(
    sources: Tensor,  # (n, d)
    targets: Tensor,  # (n, d)
    kept: Tensor,  # (m, d)
    *,
    erase: float,
    preserve: float,
    ridge: float,
) -> Tensor:
    """T (d, d) for sums over pairs and kept embeddings, as UCE writes it; our solver uses means. It minimises

    erase sum_i |W' c_i - W s_i|^2 + preserve sum_j |W' k_j - W k_j|^2 + ridge |W' - W|^2.
    """
    n, m = max(1, len(sources)), max(1, len(kept))
    weights = torch.full((len(sources),), erase, dtype=sources.dtype)
    moment = kept.double().mT @ kept.double() / m
    return solve_context_map(sources, targets, weights, moment, preserve_scale=preserve * m / n, ridge=ridge / n)


def solve_means(pairs: EmbeddingPairs, moment: Tensor, *, preserve: float, ridge: float) -> Tensor:
    """T (d, d) for weighted pairs and a preserve moment, as in TRCE's closed form."""
    return solve_context_map(pairs.sources, pairs.targets, pairs.weights, moment, preserve_scale=preserve, ridge=ridge)


def moved(T: Tensor, pairs: EmbeddingPairs) -> float:
    """Mean |T c - s| / |c - s| over the pairs whose source and target differ: 0 = on the target, 1 = not moved."""
    ratios = moved_ratios(ContextMap(((T - torch.eye(len(T))).float(),)), pairs)
    return ratios.nanmean().item() if (ratios == ratios).any() else 0.0


def changed(T: Tensor, kept: Tensor) -> float:
    """Mean |T k - k| / |k| over kept embeddings."""
    return ((kept @ T.mT.to(kept) - kept).norm(dim=1) / kept.norm(dim=1)).mean().item() if len(kept) else 0.0


def subject(roles: Roles) -> int:
    """The last token of a text that is all keyword; for the empty text the start token, as in UCE's code."""
    if roles.keyword:
        return roles.keyword[-1]
    return roles.sot[-1] if roles.sot else roles.first_eot


def subjects(source: Roles, target: Roles) -> Iterator[tuple[str, int, int, float]]:
    """One token per concept: the last one of its name onto the last one of its safe target."""
    yield "keyword", subject(source), subject(target), 1.0


def embed_kept(
    job: Job, encoder: TextEncoder, positions: Positions, templates: Sequence[str] = PLAIN
) -> EmbeddingPairs:
    """The lines of the keep list in the templates, with every token as its own target."""
    prompts = expand([ConceptPair(line, line) for line in job.keep], templates)
    return embed_positions(prompts, encoder, positions, partial(job.progress, "Keep list"), "keep")


def moments(job: Job, encoder: TextEncoder, keep: Sequence[str], templates: Sequence[str]) -> dict[str, Kept]:
    """keep_moments with the job's concepts and captions."""
    return keep_moments(keep, job.concepts, templates, encoder, job.cache_dir, job.progress, job.captions)


def everyday(job: Job, encoder: TextEncoder) -> tuple[Tensor, Tensor]:
    """Moment P (d, d) and samples (m, d) of everyday captions and the keep list in sentences, in equal parts.

    Captions that mention a concept are left out.
    """
    kept = moments(job, encoder, job.keep, job.templates()).values()
    return torch.stack([part.moment for part in kept]).mean(0), torch.cat([part.samples.flatten(0, 1) for part in kept])
