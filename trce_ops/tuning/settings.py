"""The settings of stage 2, and the presets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .factors import ADDED, TRAINED, TuningError

LOSSES = ("tau", "hinge")
ADVERSARIES = ("words", "embeddings")
CHOICES = {"loss": LOSSES, "adversary": ADVERSARIES, "projections": (*TRAINED, ADDED)}
LEAST = dict.fromkeys(("steps", "rank", "words", "learning_rate", "goal", "beta", "margin", "preserve", "guidance"), 0)
LEAST |= dict.fromkeys(("word_batch", "word_updates", "resolution", "sampling_steps"), 1)
LEAST |= dict.fromkeys(("trajectories", "draws", "batch", "empty_trajectories", "empty_draws", "empty_batch"), 1)
LEAST |= dict.fromkeys(("keep_trajectories", "keep_draws", "keep_batch"), 1)
SHARES = ("unconditional", "early")


@dataclass(frozen=True)
class TuneSettings:
    """The defaults, QUICK, work best on the demo model; WITHOUT_METRIC is QUICK for `metric` off, PAPER is the paper's.

    steps: of the optimiser; more steps erase harder. learning_rate: of AdamW; the right one depends on the model.
    decay: lower the learning rate to 0 towards the last step; otherwise the last batches dominate.
    loss: 'tau' stops at `goal` (1 = at the safe prompt's prediction); 'hinge' is the paper's, with `beta` and `margin`.
    preserve (lambda): raising it keeps other prompts better and erases less. With 'tau', the drift of a kept
    prediction is divided by the distance between the unwanted and the safe prediction, so a value means the same for
    every model; with 'hinge' it is not.
    keep: keep the predictions for the keep prompts, not only those for the empty prompt.
    unconditional: share of the loss that is on the prediction for the empty prompt instead of the unwanted one.
    early: share of the sampling steps to train on, from the noisy end.
    projections: one of factors.TRAINED, or ADDED. rank: of the trained factors; 0 trains whole matrices.
    metric: low-rank factors that read text first learn directions to which the model responds (closed_form/metric.py).
    batch: unwanted points per step. resolution: of the pictures, in pixels.
    words: how many adversarial words are learned in turn (adversary.py); 0 for none. word_batch: points of a prompt
    that a word is learned on in a step. word_updates: of the word in a step. adversary: 'embeddings' learns
    displacements of the embeddings instead, as for text encoders that are not differentiable.
    """

    steps: int = 500
    learning_rate: float = 2e-4
    decay: bool = True
    loss: str = "tau"
    goal: float = 1.0
    beta: float = 15.0
    margin: float = 0.01
    preserve: float = 10.0
    keep: bool = True
    unconditional: float = 0.0
    early: float = 0.5
    projections: str = "text"
    rank: int = 16
    metric: bool = True
    trajectories: int = 96
    resolution: int = 512
    batch: int = 4
    seed: int = 0
    words: int = 3
    word_batch: int = 4
    word_updates: int = 2
    adversary: str = ADVERSARIES[0]

    draws: int = 4  # points used of every unwanted trajectory
    empty_trajectories: int = 24  # of the empty prompt, at most
    empty_draws: int = 8
    empty_batch: int = 1  # points per step
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
WITHOUT_METRIC = replace(QUICK, metric=False, learning_rate=6e-4, goal=1.2)  # erases harder, but keeps less of the rest
# Also takes away what a learned word finds: the whole transformer blocks learn, at every noise level, and half of the
# loss is on the empty prompt at points of the concept, so that the network no longer denoises to it whatever it is told
ROBUST = replace(QUICK, projections="blocks", learning_rate=1e-3, unconditional=0.5, early=1.0)
PAPER = TuneSettings(
    steps=300,
    learning_rate=1e-6,
    decay=False,
    loss="hinge",
    preserve=100.0,
    keep=False,
    metric=False,
    words=0,
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
    """Raises TuningError, naming the field, for invalid settings."""
    for name, accepted in CHOICES.items():
        if (given := getattr(settings, name)) not in accepted:
            raise TuningError(f"'{name}' is '{given}'; choose one of {', '.join(accepted)}.")
    for name, least in LEAST.items():
        if not least <= (given := getattr(settings, name)) < math.inf:
            raise TuningError(f"'{name}' is {given}; it must be {least} or more.")
    for name in SHARES:
        if not 0 <= (given := getattr(settings, name)) <= 1:
            raise TuningError(f"'{name}' is {given}; it must be between 0 and 1.")
