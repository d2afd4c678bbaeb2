"""The second stage of TRCE: contrastive tuning of early denoising (section 3.3 of the paper).

On points of the unedited model's own early trajectories, the stage-1 model's attention is trained until its
predictions for the unwanted prompts stand on the safe side, while its predictions for the empty prompt and for what
is to be kept stay where stage 1 left them. One model in memory: reference and tuned model are two sets of weights
for the same network. Nothing here reads or writes global randomness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from .contrastive import drift, hinge, position, tau_hinge
from .trajectories import Overrides, Plan, Points, Predictor, draw_plan, follow, shuffled
from .tuned import Trained, Tuned

LOSSES = ("tau", "hinge")
GRADIENT_SCALE = 2.0**12  # keeps float16 gradients from vanishing; a power of two, so exact where nothing does

StepProgress = Callable[[str, int, int], None]  # (phase, done, in all); may raise to cancel


class TuningError(ValueError):
    """A tuning that cannot be done with these settings or on this model."""


@dataclass(frozen=True)
class TuneSettings:
    """How to tune. QUICK, the defaults, is what works best on the demo model; PAPER is the paper's.

    steps: of the optimiser; more erases harder. learning_rate: of AdamW; the right one depends on the model.
    loss: 'tau' stops where `goal` says (1 = where the safe prompt's prediction is), 'hinge' is the paper's with
    `beta` and `margin`. preserve (lambda): raising it keeps the rest better and erases less. keep: hold on to the keep
    prompts too, not to the empty prompt alone. early: the share of the sampling steps, from the noisy end, to train on.
    projections: 'paper' or 'wide', see tuned.py. rank: of the factors trained; 0 trains whole matrices.
    batch: unwanted points a step; resolution: of the picture, in pixels.
    """

    steps: int = 300
    learning_rate: float = 1e-3
    loss: str = "tau"
    goal: float = 1.2
    beta: float = 15.0
    margin: float = 0.01
    preserve: float = 100.0
    keep: bool = True
    early: float = 0.5
    projections: str = "wide"
    rank: int = 4
    trajectories: int = 96
    resolution: int = 512
    batch: int = 4
    seed: int = 0

    draws: int = 5  # points used of every unwanted trajectory
    kept_trajectories: int = 64  # at most: of the empty prompt, and as many of keep prompts
    kept_draws: int = 5
    kept_batch: int = 4
    sampling_steps: int = 20
    guidance: float = 3.0

    @property
    def kept(self) -> int:
        """Trajectories of the empty prompt: no more than there are unwanted ones."""
        return min(self.kept_trajectories, self.trajectories)


QUICK = TuneSettings()
PAPER = TuneSettings(
    learning_rate=1e-6,
    loss="hinge",
    keep=False,
    early=0.52,  # steps 0 to 25 of 50
    projections="paper",
    rank=0,
    trajectories=100,
    batch=1,
    draws=3,
    kept_trajectories=24,
    kept_draws=50,
    sampling_steps=50,
)


@dataclass(frozen=True)
class Contexts:
    """Text embeddings of the prompts, one row each."""

    neg: Tensor  # (p, L, d) unwanted prompts
    safe: Tensor  # (p, L, d) the same prompts with the safe target
    empty: Tensor  # (L, d)
    keep: Tensor | None  # (q, L, d)


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
    early = max(1, round(settings.early * settings.sampling_steps))
    draws, kept = min(settings.draws, early), (settings.kept, settings.kept_draws, settings.sampling_steps)
    return Plans(
        draw_plan(prompts, settings.trajectories, draws, early, generator),
        draw_plan(1, *kept, generator),
        draw_plan(keep, *kept, generator) if keep else None,
    )


@dataclass(frozen=True)
class Data:
    """What is trained on, and the targets; nothing of it changes during training."""

    erase: Points
    e_safe: Tensor  # (m, c, h, w), for the points of `erase`
    empty: Points
    keep: Points | None


def collect(
    predict: Predictor,
    contexts: Contexts,
    plans: Plans,
    stage1: Overrides,
    settings: TuneSettings,
    generator: Generator,
    progress: StepProgress,
) -> Data:
    """Sample the trajectories: unwanted ones of the unedited model, kept ones of the stage-1 model."""
    sigmas = predict.denoise.schedule(settings.sampling_steps)

    def sample(name: str, plan: Plan, prompts: Tensor, overrides: Overrides) -> Points:
        x = predict.denoise.noise(len(plan), generator, sigmas[0])
        return follow(
            predict,
            plan,
            sigmas,
            x,
            prompts,
            contexts.empty,
            overrides,
            settings.guidance,
            lambda done, total: progress(f"Trajectories, {name}", done, total),
        )

    erase = sample("unwanted", plans.erase, contexts.neg, {})
    e_safe = predict(erase.x, erase.sigma, contexts.safe[erase.prompts], {})
    empty = sample("empty prompt", plans.empty, contexts.empty[None], stage1)
    keep = None if plans.keep is None else sample("kept", plans.keep, contexts.keep, stage1)
    return Data(erase, e_safe, empty, keep)


@dataclass(frozen=True)
class Tuning:
    """A finished tuning: what it changed, and how it went, step by step."""

    tuned: Tuned
    losses: tuple[float, ...]
    positions: tuple[float, ...]  # guided tau of the step's unwanted points, before the step
    changes: tuple[float, ...]  # |dW| / |W| over all trained projections, after the step
    data_evaluations: int = 0
    train_evaluations: int = 0  # forward and backward
    seconds: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Term:
    """One term of the loss: points to predict, and what the predictions should be like."""

    x: Tensor  # (n, c, h, w)
    sigma: Tensor  # (n,)
    context: Tensor  # (n, L, d)
    references: tuple[Tensor, ...]  # (n, c, h, w) each
    loss: Callable[..., Tensor]  # (e, *references) -> (n,)
    weight: float


def terms(data: Data, contexts: Contexts, settings: TuneSettings, generator: Generator) -> Iterator[list[Term]]:
    """The terms of every step. The points are shuffled and come again when all of them have been used."""

    def batches(points: Points, size: int) -> Iterator[Tensor]:
        return iter(shuffled(len(points), settings.steps * size, generator).split(size))

    def erase_loss(e: Tensor, e_neg: Tensor, e_safe: Tensor, e_u: Tensor) -> Tensor:
        if settings.loss == "hinge":
            return hinge(e, e_neg, e_safe, e_u, settings.beta, settings.margin)
        return tau_hinge(e, e_neg, e_safe, settings.goal)

    erase, empty = batches(data.erase, settings.batch), batches(data.empty, settings.kept_batch)
    keep = data.keep and batches(data.keep, settings.kept_batch)
    for _ in range(settings.steps):
        i = next(erase)
        p = data.erase
        x, sigma, references = p.x[i], p.sigma[i], (p.e[i], data.e_safe[i], p.e_u[i])
        uncond = contexts.empty.expand(len(i), -1, -1)
        step = [
            Term(x, sigma, contexts.neg[p.prompts[i]], references, erase_loss, 0.5),
            Term(x, sigma, uncond, references, erase_loss, 0.5),
        ]
        j = next(empty)
        p = data.empty
        uncond = contexts.empty.expand(len(j), -1, -1)
        step.append(Term(p.x[j], p.sigma[j], uncond, (p.e[j],), drift, settings.preserve))
        if keep:
            k = next(keep)
            p = data.keep
            step.append(Term(p.x[k], p.sigma[k], contexts.keep[p.prompts[k]], (p.e[k],), drift, settings.preserve))
        yield step


def backward(predict: Predictor, term: Term, trained: Trained, frozen: Overrides, scale: float) -> tuple[float, Tensor]:
    """Add the gradient of one term, `predict.rows` points at a time, so that one graph is alive at a time.

    Returns the term's value and its predictions (n, c, h, w).
    """
    n = len(term.x)
    value, predictions = 0.0, []
    for part in torch.arange(n).split(predict.rows):
        overrides = {**frozen, **trained.overrides()}
        e = predict.denoise(term.x[part], term.sigma[part], term.context[part], overrides)
        references = (reference[part].to(e.device) for reference in term.references)
        loss = term.weight / n * term.loss(e, *references).sum()
        (scale * loss).backward()
        value += loss.item()
        predictions.append(e.detach().cpu())
    return value, torch.cat(predictions)


def guided_position(step: Sequence[Term], e: Tensor, e_u: Tensor, guidance: float) -> float:
    """Mean tau of what the sampler would follow: e_u + guidance (e - e_u) on the line between the same of both."""
    e_neg, e_safe, reference_u = step[0].references
    guided = e_u + guidance * (e - e_u)
    ends = (reference_u + guidance * (end - reference_u) for end in (e_neg, e_safe))
    return position(guided, *ends).mean().item()


def train(
    predict: Predictor,
    data: Data,
    contexts: Contexts,
    trained: Trained,
    frozen: Overrides,
    settings: TuneSettings,
    generator: Generator,
    progress: StepProgress,
) -> Tuning:
    """The optimiser's steps. Gradients are zeroed before every one of them."""
    optimizer = torch.optim.AdamW(trained.parameters, lr=settings.learning_rate, weight_decay=0.01)
    losses, positions, changes = [], [], []
    scale = GRADIENT_SCALE
    evaluations = 0
    phase = "Tuning"
    for number, step in enumerate(terms(data, contexts, settings, generator)):
        progress(phase, number, settings.steps)
        while True:
            optimizer.zero_grad()
            try:
                values, predictions = zip(*(backward(predict, term, trained, frozen, scale) for term in step))
            except torch.OutOfMemoryError:
                values = None
            if values is None:  # outside of the handler, which holds on to the memory
                predict.halve()
                continue
            for factor in trained.parameters:
                factor.grad /= scale
            if all(torch.isfinite(factor.grad).all() for factor in trained.parameters):
                break
            if scale == 1 or not math.isfinite(sum(values)):
                raise TuningError(
                    f"The gradient is NaN or Inf at step {number + 1} of {settings.steps}; lower "
                    "'tune_learning_rate', or load the model in bf16 or fp32."
                )
            scale /= 2
        optimizer.step()
        evaluations += sum(len(term.x) for term in step)
        losses.append(sum(values))
        positions.append(guided_position(step, *predictions[:2], settings.guidance))
        changes.append(trained.change())
        phase = f"Tuning, place {positions[-1]:.2f}, change {changes[-1]:.1%}"
    progress(phase, settings.steps, settings.steps)
    return Tuning(trained.result(), tuple(losses), tuple(positions), tuple(changes), train_evaluations=evaluations)
