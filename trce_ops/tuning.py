"""The second stage of TRCE: contrastive tuning of early denoising (section 3.3 of the paper).

On points of the unedited model's own early trajectories, attention is trained until the predictions of the stage-1
model for the unwanted prompts stand on the safe side, while its predictions for the empty prompt and for what is to be
kept stay those of the unedited model. Stage 1 is there as what it does to the text, c' = T c, so that one set of
weights is trained and one model is in memory. Nothing here reads or writes global randomness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from .context_map import ContextMap
from .contrastive import drift, hinge, position, tau_hinge
from .texts import Texts
from .trajectories import Plan, Points, Predictor, draw_plan, follow, shuffled
from .tune_settings import TuneSettings, TuningError
from .tuned import Trained, Tuned

GRADIENT_SCALE = 2.0**12  # keeps float16 gradients from vanishing; a power of two, so exact where nothing does
WARM_UP = 20  # steps until the learning rate is whole; AdamW's first ones have seen too few gradients

StepProgress = Callable[[str, int, int], None]  # (phase, done, in all); may raise to cancel


@dataclass(frozen=True)
class Contexts:
    """The prompts before stage 1."""

    neg: Texts  # unwanted prompts
    safe: Texts  # the same prompts with the safe target
    empty: Texts  # the empty prompt
    keep: Texts | None


@dataclass(frozen=True)
class Plans:
    """All trajectories of a tuning, before any of them is sampled."""

    erase: Plan
    empty: Plan
    keep: Plan | None

    @property
    def evaluations(self) -> int:
        """UNet evaluations of the data: guided trajectories take two a step, safe references one a point."""
        guided = 2 * int(self.erase.lengths.sum()) + self.erase.steps.numel()
        kept = 0 if self.keep is None else 2 * int(self.keep.lengths.sum())
        return guided + int(self.empty.lengths.sum()) + kept


def draw_plans(prompts: int, keep: int, settings: TuneSettings, generator: Generator) -> Plans:
    """Draw the trajectories for `prompts` unwanted and `keep` kept prompts (0: none are to be kept)."""
    all_steps = settings.sampling_steps
    early = max(1, round(settings.early * all_steps))
    return Plans(
        draw_plan(prompts, settings.trajectories, min(settings.draws, early), early, generator),
        draw_plan(1, settings.empty_count, settings.empty_draws, all_steps, generator),
        draw_plan(keep, settings.keep_count, settings.keep_draws, all_steps, generator) if keep else None,
    )


@dataclass(frozen=True)
class Data:
    """What is trained on, and what the unedited model predicts there; nothing of it changes during training."""

    erase: Points
    e_safe: Tensor  # (m, c, h, w), for the points of `erase`
    empty: Points
    keep: Points | None


def collect(
    predict: Predictor,
    contexts: Contexts,
    plans: Plans,
    settings: TuneSettings,
    generator: Generator,
    progress: StepProgress,
) -> Data:
    """Sample the trajectories."""
    sigmas = predict.denoise.schedule(settings.sampling_steps)

    def sample(name: str, plan: Plan, prompts: Texts) -> Points:
        x = predict.denoise.noise(len(plan), generator, sigmas[0])
        told = lambda done, total: progress(f"Trajectories, {name}", done, total)  # noqa: E731
        return follow(predict, plan, sigmas, x, prompts, contexts.empty, settings.guidance, told)

    erase = sample("unwanted", plans.erase, contexts.neg)
    e_safe = predict(erase.x, erase.sigma, contexts.safe[erase.prompts])
    empty = sample("empty prompt", plans.empty, contexts.empty)
    keep = None if plans.keep is None else sample("kept", plans.keep, contexts.keep)
    return Data(erase, e_safe, empty, keep)


@dataclass(frozen=True)
class Tuning:
    """A finished tuning: what it changed, and how it went, step by step."""

    tuned: Tuned
    losses: tuple[float, ...]
    positions: tuple[float, ...]  # mean tau of the step's unwanted points, before the step
    changes: tuple[float, ...]  # |dW| / |W| over all trained projections, after the step
    data_evaluations: int = 0
    train_evaluations: int = 0  # forward and backward
    seconds: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Term:
    """One term of the loss: points to predict, and what the predictions should be like."""

    x: Tensor  # (n, c, h, w)
    sigma: Tensor  # (n,)
    texts: Texts  # n of them
    references: tuple[Tensor, ...]  # (n, ...) each
    loss: Callable[..., Tensor]  # (e, *references) -> (n,)
    weight: float

    def value(self, e: Tensor, first: int) -> Tensor:
        """Its part of the loss for e (k, c, h, w), the predictions of its rows from `first` on."""
        references = (reference[first : first + len(e)].to(e.device) for reference in self.references)
        return self.weight / len(self.x) * self.loss(e, *references).sum()


def units(data: Data, sigma: Tensor) -> Tensor:  # (n,) -> (n,)
    """Mean |e_safe - e_neg|^2 at the noise levels nearest to sigma: by how much a concept changes a prediction."""
    apart = drift(data.e_safe, data.erase.e)
    levels, level = data.erase.sigma.unique(return_inverse=True)
    means = torch.zeros_like(levels).index_add_(0, level, apart) / level.bincount()
    nearest = (sigma.log()[:, None] - levels.log()).abs().argmin(1)
    return means.clamp(min=torch.finfo(means.dtype).tiny ** 0.5)[nearest]


def terms(
    data: Data, contexts: Contexts, maps: Mapping[str, ContextMap], settings: TuneSettings, generator: Generator
) -> Iterator[list[Term]]:
    """The terms of every step. The points are shuffled and come again when all of them have been used."""

    def batches(points: Points, size: int) -> Iterator[Tensor]:
        return iter(shuffled(len(points), settings.steps * size, generator).split(size))

    def erase_loss(e: Tensor, e_neg: Tensor, e_safe: Tensor, e_u: Tensor) -> Tensor:
        if settings.loss == "hinge":
            return hinge(e, e_neg, e_safe, e_u, settings.beta, settings.margin)
        return tau_hinge(e, e_neg, e_safe, settings.goal)

    def preserve(points: Points, i: Tensor, texts: Texts) -> Term:
        x, sigma = points.x[i], points.sigma[i]
        unit = units(data, sigma) if settings.loss == "tau" else torch.ones_like(sigma)
        return Term(x, sigma, texts, (points.e[i], unit), kept_loss, settings.preserve)

    def kept_loss(e: Tensor, e_kept: Tensor, unit: Tensor) -> Tensor:
        return drift(e, e_kept) / unit

    empty_texts, keep_texts = contexts.empty.moved(maps), contexts.keep and contexts.keep.moved(maps)
    erase, empty = batches(data.erase, settings.batch), batches(data.empty, settings.empty_batch)
    keep = data.keep and batches(data.keep, settings.keep_batch)
    for _ in range(settings.steps):
        i = next(erase)
        points = data.erase
        texts = contexts.neg[points.prompts[i]].moved(
            maps, 1 - settings.reach * torch.rand(len(i), generator=generator)
        )
        x, sigma, references = points.x[i], points.sigma[i], (points.e[i], data.e_safe[i], points.e_u[i])
        step = [Term(x, sigma, texts, references, erase_loss, 1 - settings.unconditional)]
        if settings.unconditional:
            texts = empty_texts.repeat(len(i))
            step.append(Term(x, sigma, texts, references, erase_loss, settings.unconditional))
        i = next(empty)
        step.append(preserve(data.empty, i, empty_texts.repeat(len(i))))
        if keep:
            i = next(keep)
            step.append(preserve(data.keep, i, keep_texts[data.keep.prompts[i]]))
        yield step


Objective = Callable[[Data, Contexts, Mapping[str, ContextMap], TuneSettings, Generator], Iterator[list[Term]]]


def backward(predict: Predictor, step: Sequence[Term], trained: Trained, scale: float) -> tuple[float, Tensor]:
    """Add `scale` times the gradient of a step, `predict.rows` points at a time: one graph is alive at a time.

    Returns the loss and the predictions (n, c, h, w), in the order of the terms.
    """
    x, sigma = (torch.cat([getattr(term, name) for term in step]) for name in ("x", "sigma"))
    texts = Texts.cat([term.texts for term in step])
    value, predictions = 0.0, []
    for start in range(0, len(x), predict.rows):
        part = slice(start, start + predict.rows)
        e = predict.denoise(x[part], sigma[part], texts[part], trained.overrides(predict.denoise.dtype))
        loss, first = torch.zeros((), device=e.device), -start  # where the term begins, seen from e
        for term in step:
            last = first + len(term.x)
            if rows := len(e[max(first, 0) : max(last, 0)]):
                begin = max(first, 0)
                loss = loss + term.value(e[begin : begin + rows], begin - first)
            first = last
        (scale * loss).backward()
        value += loss.item()
        predictions.append(e.detach().cpu())
    return value, torch.cat(predictions)


def learning_rate(step: int, settings: TuneSettings) -> float:
    """Of step 0, 1, ...: with `decay` it rises for WARM_UP steps and falls to 0 along half a cosine."""
    if not settings.decay:
        return settings.learning_rate
    fall = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return settings.learning_rate * fall * min(1, (step + 1) / WARM_UP)


def train(
    predict: Predictor,
    data: Data,
    contexts: Contexts,
    maps: Mapping[str, ContextMap],
    trained: Trained,
    settings: TuneSettings,
    generator: Generator,
    progress: StepProgress,
    objective: Objective = terms,
) -> Tuning:
    """The optimiser's steps. Gradients are zeroed before every one of them.

    The first term of every step is on unwanted points, with e_neg and e_safe first among its references.
    """
    optimizer = torch.optim.AdamW(trained.parameters, lr=settings.learning_rate, weight_decay=0.01)
    losses, positions, changes = [], [], []
    scale = GRADIENT_SCALE
    evaluations = 0
    phase = "Tuning"
    for number, step in enumerate(objective(data, contexts, maps, settings, generator)):
        progress(phase, number, settings.steps)
        optimizer.param_groups[0]["lr"] = learning_rate(number, settings)
        while True:
            optimizer.zero_grad()
            try:
                value, e = backward(predict, step, trained, scale)
            except torch.OutOfMemoryError:
                value = None
            if value is None:  # outside of the handler, which holds on to the memory
                predict.halve()
                continue
            for factor in trained.parameters:
                factor.grad /= scale
            if all(torch.isfinite(factor.grad).all() for factor in trained.parameters):
                break
            if scale == 1 or not math.isfinite(value):
                raise TuningError(
                    f"The gradient is NaN or Inf at step {number + 1} of {settings.steps}; lower "
                    "'tune_learning_rate', or load the model in bf16 or fp32."
                )
            scale /= 2
        optimizer.step()
        evaluations += len(e)
        e_neg, e_safe, *_ = step[0].references
        losses.append(value)
        positions.append(position(e[: len(e_neg)], e_neg, e_safe).mean().item())
        changes.append(trained.change())
        phase = f"Tuning, place {positions[-1]:.2f}, change {changes[-1]:.1%}"
    progress(phase, settings.steps, settings.steps)
    return Tuning(trained.result(), tuple(losses), tuple(positions), tuple(changes), train_evaluations=evaluations)
