"""ESD: Erasing Concepts from Diffusion Models (ICCV 2023), the tuned baseline, on the machinery of TRCE's stage 2.

On points of the unedited model's trajectories for the unwanted prompts, at any noise level, the prediction for the
prompt is trained towards the unedited model's with negative guidance:

    |e(x, c) - (e_u - eta (e_c - e_u))|^2

The replacement is not aimed at, and nothing is preserved: that is the method. Trained are keys and values of
cross-attention (ESD-x-strict), or its queries too. Unlike the authors' code, which samples anew for every step, the
points are sampled first and used in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from torch import Generator, Tensor

from ..delta.file import DeltaInfo, ErasedDelta
from ..delta.low_rank import ContextMap
from ..tuning.data import Contexts, Data
from ..tuning.losses import drift
from ..tuning.objective import Term
from ..tuning.settings import TuneSettings
from ..tuning.trajectories import shuffled
from ..tuning.tune import TuneReport, tune
from .job import Edit, Job, no_map


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
        """As stage 2 wants it: all noise levels, and of what ESD does not preserve as little as can be sampled."""
        shared = asdict(self)
        eta = shared.pop("negative_guidance")
        nothing_kept = {"keep": False, "preserve": 0.0, "empty_trajectories": 1, "empty_draws": 1}
        return TuneSettings(**shared, decay=False, metric=False, beta=eta, early=1.0, **nothing_kept)


def negative_guidance(e: Tensor, e_c: Tensor, e_safe: Tensor, e_u: Tensor, eta: float) -> Tensor:  # (n, ...) -> (n,)
    """The loss; e_safe takes no part in it."""
    return drift(e, e_u - eta * (e_c - e_u))


def terms(
    data: Data, contexts: Contexts, maps: Mapping[str, ContextMap], settings: TuneSettings, generator: Generator
) -> Iterator[list[Term]]:
    """The one term of every step."""

    def loss(*predictions: Tensor) -> Tensor:
        return negative_guidance(*predictions, settings.beta)

    points = data.erase
    for i in shuffled(len(points), settings.steps * settings.batch, generator).split(settings.batch):
        references = (points.e[i], data.e_safe[i], points.e_u[i])
        yield [Term(points.x[i], points.sigma[i], contexts.neg[points.prompts[i]], references, loss, 1.0)]


def erase(job: Job, settings: EsdSettings) -> Edit:
    """Raises TuningError, and OutOfMemory."""
    encoder = job.encoders["context"]
    untouched = no_map(encoder.width)
    asked = DeltaInfo("", encoder.fingerprint, tuple(job.pairs), tuple(job.keep), settings={"templates": True})
    tuning = tune(
        ErasedDelta(untouched, asked),
        encoder,
        job.tunable(settings.resolution),
        settings.tuning(),
        pooled=job.encoders.get("pooled"),
        objective=terms,
        progress=job.progress,
    )
    figures = {"place": tuning.positions[-1], "changed": tuning.changes[-1]} if tuning.tuned else {}
    evaluations = tuning.data_evaluations + tuning.train_evaluations
    return Edit({"context": untouched}, tuning.tuned, figures, evaluations, TuneReport(tuning, False).text())
