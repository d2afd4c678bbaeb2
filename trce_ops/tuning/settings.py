"""How to tune: the paper's knobs, and the presets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .factors import TRAINED

LOSSES = ("tau", "hinge")


class TuningError(ValueError):
    """A tuning that cannot be done with these settings or on this model."""


@dataclass(frozen=True)
class TuneSettings:
    """QUICK, the defaults, is what works best on the demo model; ALIKE is QUICK without `metric`, PAPER the paper's.

    steps: of the optimiser; more erase harder. learning_rate: of AdamW; the right one depends on the model.
    decay: let it fall to 0 towards the last step: without, the last few batches have an undue say.
    loss: 'tau' stops where `goal` says (1 = where the safe prompt's prediction is), 'hinge' is the paper's with
    `beta` and `margin`.
    preserve (lambda): raising it keeps the rest better and erases less. With 'tau' kept predictions are measured like
    the unwanted ones, by the distance between the unwanted and the safe prediction, so that it means the same for
    every model; with 'hinge' as they are.
    keep: hold on to the keep prompts too, not to the empty prompt alone.
    reach: tune on what stage 1 may miss: on embeddings that its map has moved by only a share of the way, down to
    1 - reach. Wordings that do not name the concept end up there. 0 tunes on what the map makes of the prompts.
    unconditional: weight of the loss on the prediction for the empty prompt against that for the unwanted one.
    early: the share of the sampling steps, from the noisy end, to train on.
    projections: which, see tuned.py. rank: of the factors trained; 0 trains whole matrices.
    metric: let low-rank factors that read text learn first on what the model reads of it (metric.py).
    batch: unwanted points a step; resolution: of the picture, in pixels.
    """

    steps: int = 500
    learning_rate: float = 2e-4
    decay: bool = True
    loss: str = "tau"
    goal: float = 1.0
    beta: float = 15.0
    margin: float = 0.01
    preserve: float = 3.0
    keep: bool = True
    reach: float = 1.0
    unconditional: float = 0.0
    early: float = 0.5
    projections: str = "text"
    rank: int = 16
    metric: bool = True
    trajectories: int = 96
    resolution: int = 512
    batch: int = 4
    seed: int = 0

    draws: int = 4  # points used of every unwanted trajectory
    empty_trajectories: int = 24  # of the empty prompt, at most
    empty_draws: int = 8
    empty_batch: int = 1  # points a step
    keep_trajectories: int = 144  # of keep prompts, at most
    keep_draws: int = 2
    keep_batch: int = 5
    sampling_steps: int = 20
    guidance: float = 3.0

    @property
    def empty_count(self) -> int:
        """Trajectories of the empty prompt: no more than there are unwanted ones."""
        return min(self.empty_trajectories, self.trajectories)

    @property
    def keep_count(self) -> int:
        """Trajectories of keep prompts: no more than twice as many as there are unwanted ones."""
        return min(self.keep_trajectories, 2 * self.trajectories)


QUICK = TuneSettings()
ALIKE = replace(QUICK, metric=False, learning_rate=6e-4, goal=1.2)  # erases harder, and costs more of the rest
PAPER = TuneSettings(
    steps=300,
    learning_rate=1e-6,
    decay=False,
    loss="hinge",
    preserve=100.0,
    keep=False,
    reach=0.0,
    metric=False,
    unconditional=0.5,
    early=0.52,  # steps 0 to 25 of 50
    projections="paper",
    rank=0,
    trajectories=100,
    batch=1,
    draws=3,
    empty_draws=50,
    empty_batch=4,
    keep_trajectories=24,
    keep_draws=50,
    keep_batch=4,
    sampling_steps=50,
)


def check(settings: TuneSettings) -> None:
    """Raises TuningError, naming the widget, for settings that mean nothing."""
    for widget, given, accepted in (
        ("tune_loss", settings.loss, LOSSES),
        ("tune_projections", settings.projections, tuple(TRAINED)),
    ):
        if given not in accepted:
            raise TuningError(f"'{widget}' is '{given}'; choose one of {', '.join(accepted)}.")
    for widget, given, least in (
        ("tune_steps", settings.steps, 0),
        ("tune_rank", settings.rank, 0),
        ("tune_trajectories", settings.trajectories, 1),
        ("tune_batch", settings.batch, 1),
        ("tune_resolution", settings.resolution, 1),
        ("tune_learning_rate", settings.learning_rate, 0),
        ("tune_goal", settings.goal, 0),
        ("tune_beta", settings.beta, 0),
        ("tune_margin", settings.margin, 0),
        ("tune_preserve", settings.preserve, 0),
    ):
        if not least <= given < math.inf:
            raise TuningError(f"'{widget}' is {given}; it must be {least} or more.")
    for widget in ("reach", "unconditional", "early"):
        if not 0 <= getattr(settings, widget) <= 1:
            raise TuningError(f"'tune_{widget}' is {getattr(settings, widget)}; it must be between 0 and 1.")
