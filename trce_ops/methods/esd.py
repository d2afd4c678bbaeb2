"""ESD: Erasing Concepts from Diffusion Models (ICCV 2023), the tuned baseline, on the machinery of TRCE's stage 2.

On points of the unedited model's trajectories for the unwanted prompts, at all noise levels, the prediction for the
prompt is trained towards the unedited model's prediction with negative guidance:

    |e(x, c) - (e_u - eta (e_c - e_u))|^2

ESD aims at no safe target and preserves nothing. It trains keys and values of cross-attention (ESD-x-strict), or
queries too. The authors sample anew for every step; here all points are sampled first and used in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial

from torch import Generator, Tensor

from ..delta.low_rank import ContextMap
from ..tuning.data import Contexts, Data
from ..tuning.losses import drift
from ..tuning.objective import Objective, Term
from ..tuning.settings import TuneSettings
from ..tuning.trajectories import shuffled
from .job import Edit, Job, edit_trained


@dataclass(frozen=True)
class EsdSettings:
    """negative_guidance (eta). steps, learning_rate: of the optimiser. projections, rank, trajectories, resolution,
    batch, draws, sampling_steps, guidance, seed: see TuneSettings."""

    negative_guidance: float = 2.0
    steps: int = 200
    learning_rate: float = 5e-5
    projections: str = "text"
    rank: int = 0
    trajectories: int = 48
    resolution: int = 512
    batch: int = 1
    draws: int = 4
    sampling_steps: int = 20
    guidance: float = 3.0
    seed: int = 0

    def tuning(self) -> TuneSettings:
        """The settings for tuning.tune: all noise levels, and the fewest kept trajectories, which ESD does not use."""
        shared = asdict(self)
        del shared["negative_guidance"]
        nothing_kept = {"keep": False, "preserve": 0.0, "empty_trajectories": 1, "empty_draws": 1}
        return TuneSettings(**shared, decay=False, metric=False, words=0, early=1.0, **nothing_kept)


def negative_guidance(e: Tensor, e_c: Tensor, e_safe: Tensor, e_u: Tensor, eta: float) -> Tensor:  # (n, ...) -> (n,)
    """ESD's loss; e_safe is unused."""
    return drift(e, e_u - eta * (e_c - e_u))


def objective(eta: float) -> Objective:
    """The objective of stage 2 with one term in every step: negative_guidance."""
    loss = partial(negative_guidance, eta=eta)

    def terms(
        data: Data, contexts: Contexts, maps: Mapping[str, ContextMap], settings: TuneSettings, generator: Generator
    ) -> Iterator[list[Term]]:
        points = data.erase
        for i in shuffled(len(points), settings.steps * settings.batch, generator).split(settings.batch):
            references = (points.e[i], data.e_safe[i], points.e_u[i])
            yield [Term(points.x[i], points.sigma[i], contexts.neg[points.prompts[i]], references, loss, 1.0)]

    return terms


def erase(job: Job, settings: EsdSettings) -> Edit:
    """Raises TuningError and OutOfMemory."""
    return edit_trained(job, job.tunable(settings.resolution), settings, objective(settings.negative_guidance))
