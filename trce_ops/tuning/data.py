"""Samples the trajectories that tuning learns from, with the unedited model's predictions on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from ..progress import StepProgress
from .settings import TuneSettings
from .text_batch import Texts
from .trajectories import Plan, Points, Predictor, draw_plan, follow


@dataclass(frozen=True)
class Contexts:
    """Embedded prompts, before the context maps are applied."""

    neg: Texts  # unwanted prompts
    safe: Texts  # the same prompts with the safe target
    empty: Texts  # the empty prompt
    keep: Texts | None
    others: Texts | None = None  # k for each unwanted prompt, in order: the same prompt with another word; marked


@dataclass(frozen=True)
class Plans:
    """All trajectories of a tuning, before any of them is sampled."""

    erase: Plan
    empty: Plan
    keep: Plan | None

    @property
    def evaluations(self) -> int:
        """Of the model, for the data, with a guidance other than 1: guided trajectories take two a step, the safe
        predictions one a point."""
        guided = 2 * int(self.erase.lengths.sum()) + self.erase.steps.numel()
        kept = 0 if self.keep is None else 2 * int(self.keep.lengths.sum())
        return guided + int(self.empty.lengths.sum()) + kept


def draw_plans(prompts: int, keep: int, settings: TuneSettings, generator: Generator) -> Plans:
    """Draw the trajectories for `prompts` unwanted and `keep` kept prompts (0 for none)."""
    all_steps = settings.sampling_steps
    early = max(1, round(settings.early * all_steps))
    return Plans(
        draw_plan(prompts, settings.trajectories, settings.draws, early, generator),
        draw_plan(1, settings.empty_count, settings.empty_draws, all_steps, generator),
        draw_plan(keep, settings.keep_count, settings.keep_draws, all_steps, generator) if keep else None,
    )


@dataclass(frozen=True)
class Data:
    """The points to train on, with the unedited model's predictions. Constant during training."""

    erase: Points
    e_safe: Tensor  # (m, c, h, w), for the points of `erase`
    empty: Points
    keep: Points | None
    attention: Tensor = torch.zeros(0, 0, 0)  # (m, k, N) to the other words, for the points of `erase`


def collect(
    predict: Predictor,
    contexts: Contexts,
    plans: Plans,
    settings: TuneSettings,
    generator: Generator,
    progress: StepProgress,
) -> Data:
    """Sample the trajectories of all plans."""
    sigmas = predict.denoise.schedule(settings.sampling_steps)

    def sample(name: str, plan: Plan, prompts: Texts) -> Points:
        x = predict.denoise.noise(len(plan), generator, sigmas[0])
        step = partial(progress, f"Trajectories, {name}")
        return follow(predict, plan, sigmas, x, prompts, contexts.empty, settings.guidance, step)

    erase = sample("unwanted", plans.erase, contexts.neg)
    e_safe = predict(erase.x, erase.sigma, contexts.safe, erase.prompts)
    empty = sample("empty prompt", plans.empty, contexts.empty)
    keep = sample("kept", plans.keep, contexts.keep) if plans.keep and contexts.keep else None
    return Data(erase, e_safe, empty, keep, attention_to_others(predict, erase, contexts, progress))


def attention_to_others(
    predict: Predictor, points: Points, contexts: Contexts, progress: StepProgress
) -> Tensor:  # (m, k, N)
    """How much the picture attends to each of k other words when that word is in the concept's place."""
    if contexts.others is None:
        return torch.zeros(len(points), 0, 0)
    k = len(contexts.others) // len(contexts.neg)
    found = []
    for j in range(k):
        progress("Attention to other words", j, k)
        found.append(predict.attention(points.x, points.sigma, contexts.others, k * points.prompts + j))
    return torch.stack(found, 1)
