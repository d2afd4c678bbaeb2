"""The training loop of stage 2: contrastive tuning of early denoising (section 3.3 of the paper).

Trains attention at points of the unedited model's early trajectories, until its predictions for the unwanted prompts
reach the safe side, while those for the empty prompt and the kept prompts stay the unedited model's. Stage 1 enters as
mapped text, c' = T c, so only one model is in memory. Global random state is neither read nor changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from ..delta.low_rank import ContextMap, Tuned
from ..progress import StepProgress
from .data import Contexts, Data
from .factors import Trained
from .losses import GRADIENT_SCALE, position
from .objective import Objective, Term, terms
from .settings import TuneSettings, TuningError
from .text_batch import Texts
from .trajectories import Predictor

WARM_UP = 20  # steps of linear warm-up, because AdamW's estimates are poor at first


@dataclass(frozen=True)
class Tuning:
    """The result of a tuning, with its curves over the steps."""

    tuned: Tuned
    losses: tuple[float, ...]
    positions: tuple[float, ...]  # mean tau of the step's unwanted points, before the step
    changes: tuple[float, ...]  # |dW| / |W| over all trained projections, after the step
    data_evaluations: int = 0
    train_evaluations: int = 0  # forward and backward
    word_evaluations: int = 0  # of these, to learn adversarial words
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def evaluations(self) -> int:
        """Of the model, in all."""
        return self.data_evaluations + self.train_evaluations


def backward(predict: Predictor, step: Sequence[Term], trained: Trained, scale: float) -> tuple[float, Tensor]:
    """Add `scale` times the gradient of a step, `predict.rows` points at a time, so that only one graph is in memory.

    Returns the loss and the predictions (n, c, h, w), in the order of the terms.
    """
    x, sigma = (torch.cat([getattr(term, name) for term in step]) for name in ("x", "sigma"))
    texts = Texts.cat([term.texts for term in step])
    value, predictions = 0.0, []
    for start in range(0, len(x), predict.rows):
        part = slice(start, start + predict.rows)
        given = x[part], sigma[part], texts[part], trained.overrides(predict.denoise.dtype)
        e, attention = (predict.denoise(*given), None) if texts.marks is None else predict.attending(*given)
        loss, first = torch.zeros((), device=e.device), -start  # first: of the term, counted in rows of e
        for term in step:
            own = slice(max(first, 0), max(first + len(term.x), 0))
            if len(e[own]):
                loss = loss + term.value(e[own], own.start - first, None if attention is None else attention[own])
            first += len(term.x)
        (scale * loss).backward()
        value += loss.item()
        predictions.append(e.detach().cpu())
    return value, torch.cat(predictions)


def gradient(predict: Predictor, step: Sequence[Term], trained: Trained, scale: float) -> tuple[float, Tensor, float]:
    """Set the gradient of a step. Returns what `backward` does, and the scale at which it was finite, at most `scale`.

    Raises TuningError when it is NaN or Inf at every scale, and OutOfMemory.
    """

    def attempt() -> tuple[float, Tensor]:
        for factor in trained.parameters:
            factor.grad = None
        return backward(predict, step, trained, scale)

    while True:
        value, e = predict.fitting(attempt)
        if trained.unscale(scale):
            return value, e, scale
        if scale == 1 or not math.isfinite(value):
            raise TuningError("The gradient is NaN or Inf; lower 'learning_rate', or load the model in bf16 or fp32.")
        scale /= 2


def learning_rate(step: int, settings: TuneSettings) -> float:
    """The learning rate of a step, from 0: with `decay` it rises for WARM_UP steps, then falls to 0 along a cosine."""
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
    """Run the optimiser.

    The first term of every step must be on unwanted points, and its first references must be e_neg and e_safe.
    Raises what `gradient` does.
    """
    optimizer = torch.optim.AdamW(trained.parameters, lr=settings.learning_rate, weight_decay=0.01)
    losses, positions, changes, evaluations = [], [], [], 0
    scale, phase = GRADIENT_SCALE, "Tuning"

    for number, step in enumerate(objective(data, contexts, maps, settings, generator)):
        progress(phase, number, settings.steps)
        optimizer.param_groups[0]["lr"] = learning_rate(number, settings)
        value, e, scale = gradient(predict, step, trained, scale)
        optimizer.step()
        evaluations += len(e)
        e_neg, e_safe, *_ = step[0].references
        losses.append(value)
        positions.append(position(e[: len(e_neg)], e_neg, e_safe).mean().item())
        changes.append(trained.change())
        phase = f"Tuning, position {positions[-1]:.2f}, change {changes[-1]:.1%}"
    progress(phase, settings.steps, settings.steps)
    return Tuning(trained.result(), tuple(losses), tuple(positions), tuple(changes), train_evaluations=evaluations)
