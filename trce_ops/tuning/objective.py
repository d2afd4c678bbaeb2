"""The terms of TRCE's tuning loss at every step (section 3.3 of the paper)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..delta.low_rank import ContextMap
from .adversary import Adversary
from .data import Contexts, Data
from .losses import drift, hinge, tau_hinge
from .settings import TuneSettings
from .text_batch import Texts
from .trajectories import Points, shuffled


@dataclass(frozen=True)
class Term:
    """One term of a step's loss: points, their prompts, reference predictions, and the loss function."""

    x: Tensor  # (n, c, h, w)
    sigma: Tensor  # (n,)
    texts: Texts  # n of them
    references: tuple[Tensor, ...]  # (n, ...) each
    loss: Callable[..., Tensor]  # (e, *references) -> (n,), or (e, attention, *references) if the texts have marks
    weight: float

    def value(self, e: Tensor, first: int, attention: Tensor | None = None) -> Tensor:
        """Its part of the loss for e (k, c, h, w) and attention (k, N), those of its rows from `first` on."""
        references = (reference[first : first + len(e)].to(e.device) for reference in self.references)
        given = (e,) if self.texts.marks is None else (e, attention)
        return self.weight / len(self.x) * self.loss(*given, *references).sum()


class PredictionGaps:
    """How much a concept changes a prediction, |e_safe - e_neg|^2, as a mean at every noise level of the data."""

    def __init__(self, data: Data):
        apart = drift(data.e_safe, data.erase.e)
        self.levels, level = data.erase.sigma.unique(return_inverse=True)
        means = torch.zeros_like(self.levels).index_add_(0, level, apart) / level.bincount()
        self.means = means.clamp(min=torch.finfo(means.dtype).tiny ** 0.5)

    def __call__(self, sigma: Tensor) -> Tensor:  # (n,) -> (n,)
        """The means at the noise levels nearest to sigma."""
        nearest = (sigma.log()[:, None] - self.levels.log()).abs().argmin(1)
        return self.means[nearest]


def terms(
    data: Data,
    contexts: Contexts,
    maps: Mapping[str, ContextMap],
    settings: TuneSettings,
    generator: Generator,
    adversary: Adversary | None = None,
) -> Iterator[list[Term]]:
    """The terms of every step. The points are shuffled, and are reused when all of them have had their turn."""
    gaps = PredictionGaps(data) if settings.loss == "tau" else torch.ones_like

    def batches(points: Points, size: int) -> Iterator[Tensor]:
        return iter(shuffled(len(points), settings.steps * size, generator).split(size))

    def erase_loss(e: Tensor, e_neg: Tensor, e_safe: Tensor, e_u: Tensor) -> Tensor:
        if settings.loss == "hinge":
            return hinge(e, e_neg, e_safe, e_u, settings.beta, settings.margin)
        return tau_hinge(e, e_neg, e_safe, settings.goal)

    def preserve(points: Points, i: Tensor, texts: Texts) -> Term:
        x, sigma = points.x[i], points.sigma[i]
        return Term(x, sigma, texts, (points.e[i], gaps(sigma)), kept_loss, settings.preserve)

    def kept_loss(e: Tensor, e_kept: Tensor, gap: Tensor) -> Tensor:
        return drift(e, e_kept) / gap

    neg, empty_texts = contexts.neg.moved(maps), contexts.empty.moved(maps)
    erase, empty = batches(data.erase, settings.batch), batches(data.empty, settings.empty_batch)
    keep = None
    if data.keep and contexts.keep:
        keep = data.keep, contexts.keep.moved(maps), batches(data.keep, settings.keep_batch)
    for _ in range(settings.steps):
        i = next(erase)
        points = data.erase
        x, sigma, references = points.x[i], points.sigma[i], (points.e[i], data.e_safe[i], points.e_u[i])
        step = [Term(x, sigma, neg[points.prompts[i]], references, erase_loss, 1 - settings.unconditional)]
        if settings.unconditional:
            texts = empty_texts.repeat(len(i))
            step.append(Term(x, sigma, texts, references, erase_loss, settings.unconditional))
        if adversary:
            i, texts = adversary.learn(data)
            references = points.e[i], data.e_safe[i], points.e_u[i]
            step.append(Term(points.x[i], points.sigma[i], texts.moved(maps), references, erase_loss, 1.0))
        i = next(empty)
        step.append(preserve(data.empty, i, empty_texts.repeat(len(i))))
        if keep:
            points, texts, indices = keep
            i = next(indices)
            step.append(preserve(points, i, texts[points.prompts[i]]))
        yield step


Objective = Callable[[Data, Contexts, Mapping[str, ContextMap], TuneSettings, Generator], Iterator[list[Term]]]
