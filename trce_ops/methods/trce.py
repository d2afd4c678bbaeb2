"""TRCE: the closed form, with this pack's weights or the paper's, alone or followed by tuning."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..closed_form.erase import EraseSettings, erase
from ..closed_form.report import Report
from ..delta.file import ErasedDelta
from ..text.tokens import TokenWeights
from ..tuning.settings import QUICK, ROBUST, TuneSettings
from ..tuning.tune import TuneReport, tune_delta
from .job import Edit, Job

# The paper moves the first EoT alone. Its eta applies to a sum over 30 000 captions; 0.0077 is the same per token. Its
# ridge is 0, which leaves the system without a unique solution when the captions do not span the embeddings.
PAPER = EraseSettings(TokenWeights(sot=0, keyword=0, first_eot=1, pads=0), preserve=0.0077, ridge=1e-4, metric=False)


@dataclass(frozen=True)
class TrceSettings:
    """tuning: None for the closed form alone."""

    closed_form: EraseSettings = field(default_factory=EraseSettings)
    tuning: TuneSettings | None = None


CLOSED_FORM = TrceSettings()
CLOSED_FORM_PAPER = TrceSettings(PAPER)
# Milder than alone, which keeps more of the rest: tuning finds what is left of the concept
MILD = EraseSettings(preserve=50.0)
BOTH = TrceSettings(MILD, QUICK)
BOTH_ROBUST = TrceSettings(MILD, ROBUST)


def erase_and_tune(job: Job, settings: TrceSettings) -> tuple[ErasedDelta, Report, TuneReport | None]:
    """The closed form, then tuning on top of it where the settings ask for it; the last report is of the tuning.

    A model that cannot be tuned is refused before anything is computed. Raises what erase and tune_delta raise.
    """
    model = job.tunable(settings.tuning.resolution) if settings.tuning else None
    if model is not None and settings.tuning:
        model.adapt(settings.tuning)  # raises for settings that the model cannot have
    delta, report = erase(
        job.pairs,
        job.keep,
        job.encoders,
        settings.closed_form,
        family=job.family,
        metrics=job.metrics() if settings.closed_form.metric else {},
        space=job.space,
        cache_dir=job.cache_dir,
        progress=job.progress,
        captions=job.captions,
    )
    if model is None or settings.tuning is None:
        return delta, report, None
    delta, tuned = tune_delta(
        delta,
        job.encoders,
        model,
        settings.tuning,
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
        evaluations = tuned.tuning.evaluations
        details += f"\n{tuned.text()}"
    return Edit(delta.maps, delta.tuned, delta.info.measured, evaluations, details, delta.info.settings)
