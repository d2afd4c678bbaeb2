"""Relearning: a small LoRA trained on a few pictures of the concept brings it back. How many steps does that take?

Fine-tuning can undo an erasure, even on other pictures (Suriyakumar et al., arXiv 2410.08074). One that took the
concept out of the weights should withstand more steps than one that only moved its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..delta.low_rank import Tuned
from ..progress import StepProgress
from ..tuning.factors import Trained, choose
from ..tuning.losses import GRADIENT_SCALE, drift
from ..tuning.objective import Term
from ..tuning.text_batch import Texts
from ..tuning.train import gradient
from ..tuning.trajectories import Denoiser, Overrides, Predictor
from .evidence import ProbeError, comes_back, draw_points, noise_levels


@dataclass(frozen=True)
class RelearnSettings:
    """every: steps between two stages that are kept. rank, learning_rate: of the LoRA, which is on all attention."""

    steps: int = 100
    every: int = 10
    learning_rate: float = 1e-3
    rank: int = 4
    batch: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Relearned:
    """The LoRA after every `every` steps, by step and beginning with none; and the loss of every step."""

    stages: Mapping[int, Tuned]
    losses: tuple[float, ...]
    queries: int  # forward and backward


def relearn(
    denoise: Denoiser,
    pictures: Tensor,  # (m, c, h, w) latents as the model sees them
    text: Texts,  # one: what the pictures show
    settings: RelearnSettings = RelearnSettings(),
    *,
    rows: int = 8,
    progress: StepProgress = lambda *_: None,
) -> Relearned:
    """Train a LoRA to draw the pictures. Raises ProbeError for unusable settings, and what `gradient` does."""
    if settings.rank < 1 or settings.every < 1:
        raise ProbeError("'rank' and 'every' must be 1 or more.")
    generator = Generator().manual_seed(settings.seed)
    names = choose(denoise.weights, "wide")
    trained = Trained({name: denoise.weights[name] for name in names}, settings.rank, generator)
    optimizer = torch.optim.AdamW(trained.parameters, lr=settings.learning_rate)
    predict, sigmas, scale = Predictor(denoise, rows), noise_levels(denoise), GRADIENT_SCALE
    losses, stages = [], {0: trained.result()}
    for step in range(1, settings.steps + 1):
        progress("Relearning", step - 1, settings.steps)
        points = draw_points(sigmas, pictures, settings.batch, generator)
        lesson = Term(points.x, points.sigma, text.repeat(len(points)), (points.noise,), drift, 1.0)
        value, _, scale = gradient(predict, [lesson], trained, scale)
        optimizer.step()
        losses.append(value)
        if step % settings.every == 0 or step == settings.steps:
            stages[step] = trained.result()
    progress("Relearning", settings.steps, settings.steps)
    return Relearned(stages, tuple(losses), len(losses) * settings.batch)


def with_lora(denoise: Denoiser, tuned: Tuned) -> Overrides:
    """The model's weights with the LoRA, by name."""
    names = {module: f"{module}.weight" for module in tuned}
    W = {module: denoise.weights[name] for module, name in names.items()}
    return {
        names[module]: (W[module].float() + dW.dense().to(W[module].device)).to(denoise.dtype)
        for module, dW in tuned.items()
    }


def back_after(explained: Mapping[int, Tensor], before: Tensor) -> int | None:
    """The first step after which the concept is back in at least half of the pictures; None for never.

    explained: by step, how much the prompt lowers the denoising loss of every picture (m,). before: the same with the
    unedited model.
    """
    return next((n for n, gain in explained.items() if comes_back(gain, before).float().mean() >= 0.5), None)
