"""TRCE: the closed form, with this pack's weights or the paper's, alone or followed by tuning."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..closed_form.erase import EraseSettings, erase
from ..closed_form.report import Report
from ..delta.file import ErasedDelta
from ..text.tokens import TokenWeights
from ..tuning.settings import QUICK, TuneSettings
from ..tuning.tune import TuneReport, tune_delta
from .job import Edit, Job

# The paper moves the first EoT alone. Its eta applies to a sum over 30 000 captions, which comes to this per token. Its
# ridge is 0, which leaves the system without a unique solution when the captions do not span the embeddings.
PAPER = EraseSettings(TokenWeights(sot=0, keyword=0, first_eot=1, pads=0), preserve=0.0077, ridge=1e-4, metric=False)


@dataclass(frozen=True)
class TrceSettings:
    """first: of stage 1. second: of stage 2, or None for the closed form alone."""

    first: EraseSettings = field(default_factory=EraseSettings)
    second: TuneSettings | None = None


CLOSED_FORM = TrceSettings()
CLOSED_FORM_PAPER = TrceSettings(PAPER)
BOTH = TrceSettings(second=QUICK)


def erase_and_tune(job: Job, settings: TrceSettings) -> tuple[ErasedDelta, Report, TuneReport | None]:
    """Both stages, the second one if there are settings for it. Raises what erase, tune_delta and job.model do.

    A model that cannot be trained is refused before stage 1 starts.
    """
    model = settings.second and job.tunable(settings.second.resolution)
    encoders = dict(job.encoders)
    encoder = encoders.pop("context")
    delta, report = erase(
        job.pairs,
        job.keep,
        encoder,
        settings.first,
        family=job.family,
        streams=encoders,
        metrics=job.metrics() if settings.first.metric else {},
        space=job.space,
        cache_dir=job.cache_dir,
        progress=job.progress,
        captions=job.captions,
    )
    if not settings.second:
        return delta, report, None
    delta, tuned = tune_delta(
        delta,
        encoder,
        model,
        settings.second,
        pooled=encoders.get("pooled"),
        cache_dir=job.cache_dir,
        retrain=job.retrain,
        progress=job.progress,
    )
    return delta, report, tuned


def run(job: Job, settings: TrceSettings) -> Edit:
    """Raises what erase_and_tune does."""
    delta, report, tuned = erase_and_tune(job, settings)
    evaluations, details = 0, report.text()
    if tuned:
        evaluations = tuned.tuning.data_evaluations + tuned.tuning.train_evaluations
        details += f"\n{tuned.text()}"
    return Edit({"context": delta.context_map, **delta.streams}, delta.tuned, delta.info.measured, evaluations, details)
