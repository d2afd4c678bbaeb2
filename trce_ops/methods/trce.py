"""TRCE itself, as one of the methods: the closed form, with its own weighting here and the paper's, and both stages."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..closed_form.erase import EraseSettings, erase
from ..text.tokens import TokenWeights
from ..tuning.settings import QUICK, TuneSettings
from ..tuning.tune import tune_delta
from .job import Edit, Job

# The paper's: the first EoT alone. Its eta is on the sum over 30 000 captions; this is what it comes to per token. Its
# ridge is 0, which leaves the system without a solution where the captions do not span the embeddings.
PAPER = EraseSettings(TokenWeights(sot=0, keyword=0, first_eot=1, pads=0), preserve=0.0077, ridge=1e-4, metric=False)


@dataclass(frozen=True)
class TrceSettings:
    """first: of stage 1. second: of stage 2, or None for the closed form alone."""

    first: EraseSettings = field(default_factory=EraseSettings)
    second: TuneSettings | None = None


CLOSED_FORM = TrceSettings()
CLOSED_FORM_PAPER = TrceSettings(PAPER)
BOTH = TrceSettings(second=QUICK)


def run(job: Job, settings: TrceSettings) -> Edit:
    """Raises what erase and tune_delta do."""
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
    )
    evaluations, details = 0, report.text()
    if settings.second:
        model = job.tunable(settings.second.resolution)
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
        evaluations = tuned.tuning.data_evaluations + tuned.tuning.train_evaluations
        details += f"\n{tuned.text()}"
    return Edit({"context": delta.context_map, **delta.streams}, delta.tuned, delta.info.measured, evaluations, details)
