"""TRCE and other published methods behind one call: concepts and keep list in, an erased delta out.

Each module is one method, written from its paper's equations, and names the parts of the paper that it leaves out. UCE,
RECE, MACE's refinement and RealEra give closed_form/solve.py other pairs, weights and moments; LEACE is another
map; SPEED, ESD and EraseAnything change each projection separately. All of them take any number of concepts.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ..closed_form.conflicts import conflicts
from ..delta.file import DeltaInfo, ErasedDelta
from ..progress import StepProgress
from ..text.concepts import ConceptPair, format_concepts
from ..text.embeddings import TextEncoder
from ..tuning.tune import TunableModel
from ..version import __version__
from . import erase_anything, esd, leace, mace, realera, rece, speed, trce, uce
from .job import Edit, Job, MethodError, TextWeights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Method:
    """One method: its paper, default settings, and function."""

    paper: str
    settings: Any  # a frozen dataclass
    run: Callable[[Job, Any], Edit]
    trains: bool = False  # on what the model predicts


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "trce": Method("TRCE, ICCV 2025, both stages", trce.BOTH, trce.run, trains=True),
        "trce-robust": Method("TRCE, ICCV 2025, both stages, robust", trce.BOTH_ROBUST, trce.run, trains=True),
        "trce-closed-form": Method("TRCE, ICCV 2025, stage 1 with this pack's weights", trce.CLOSED_FORM, trce.run),
        "trce-closed-form-paper": Method(
            "TRCE, ICCV 2025, stage 1 with the paper's weights", trce.CLOSED_FORM_PAPER, trce.run
        ),
        "uce": Method("UCE, WACV 2024", uce.UceSettings(), uce.erase),
        "rece": Method("RECE, ECCV 2024", rece.ReceSettings(), rece.erase),
        "mace": Method("MACE, CVPR 2024, its closed-form refinement", mace.MaceSettings(), mace.erase),
        "realera": Method("RealEra, arXiv 2410.09140, its closed form", realera.RealEraSettings(), realera.erase),
        "speed": Method("SPEED, ICLR 2026", speed.SpeedSettings(), speed.erase),
        "leace": Method("LEACE, NeurIPS 2023, on the text", leace.LeaceSettings(), leace.erase),
        "esd": Method("ESD, ICCV 2023", esd.EsdSettings(), esd.erase, trains=True),
        "erase-anything": Method(
            "EraseAnything, ICML 2025", erase_anything.EraseAnythingSettings(), erase_anything.erase, trains=True
        ),
    }
)


@dataclass(frozen=True)
class MethodReport:
    """The figures of one erasure."""

    method: str
    concepts: Sequence[ConceptPair]
    figures: Mapping[str, float]  # moved: 0 = on the target, 1 = untouched; kept: 0 = untouched; others: see the method
    seconds: Mapping[str, float]
    evaluations: int  # of the model
    details: str
    notes: Sequence[str] = ()

    def text(self) -> str:
        """The report as lines for people."""
        figures = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in self.figures.items())
        lines = [
            f"Erased {len(self.concepts)} concept{'' if len(self.concepts) == 1 else 's'} by "
            f"{METHODS[self.method].paper}:",
            *(f"  {line}" for line in format_concepts(self.concepts).splitlines()),
            f"Figures (moved: 0 = on the safe target, 1 = not moved; kept: 0 = not moved): {figures or 'none'}",
            "Seconds: " + ", ".join(f"{step} {value:.2f}" for step, value in self.seconds.items()),
        ]
        if self.evaluations:
            lines.append(f"Evaluations of the model: {self.evaluations}")
        return "\n".join([*lines, *self.notes, self.details] if self.details else [*lines, *self.notes])


def erase_with(
    method: str,
    pairs: Sequence[ConceptPair],
    keep: Sequence[str],
    encoders: Mapping[str, TextEncoder],
    settings: Any = None,
    *,
    family: str,
    space: str = "embedding",
    weights: Callable[[], TextWeights] | None = None,
    metrics: Callable[[], Mapping[str, Tensor | str]] = dict,
    model: Callable[[int], TunableModel] | None = None,
    cache_dir: str | os.PathLike | None = None,
    retrain: bool = False,
    progress: StepProgress = lambda *_: None,
    captions: Sequence[str] | None = None,
) -> tuple[ErasedDelta, MethodReport]:
    """Erase by one of METHODS, with its own defaults unless `settings` of the same kind are given.

    encoders, space, captions, and metrics for TRCE: see closed_form.erase.erase. weights: projections by kind of text
    and module, (out, d or more) float32, for methods that need them. model: takes a resolution and returns the model,
    for methods that train.
    The same inputs give the same delta, bit for bit, on one machine. Raises MethodError, what the method raises
    (TokenError, NotPositiveDefinite, TuningError, all ValueError, and OutOfMemory), and whatever `progress` raises to
    cancel.
    """
    if method not in METHODS:
        raise MethodError(f"'method' is '{method}'; choose one of {', '.join(METHODS)}.")
    chosen = METHODS[method]
    settings = chosen.settings if settings is None else settings
    if type(settings) is not type(chosen.settings):
        raise MethodError(f"'{method}' takes {type(chosen.settings).__name__}, not {type(settings).__name__}.")
    job = Job(pairs, keep, encoders, weights, metrics, model, family, space, cache_dir, retrain, progress, captions)
    start = perf_counter()
    edit = chosen.run(job, settings)
    seconds = {"erasing": perf_counter() - start}
    # TRCE's own report has its notes
    notes = () if chosen.run is trce.run else conflicts(pairs, keep, dict.fromkeys(job.concepts, 0.0))
    report = MethodReport(method, pairs, edit.figures, seconds, edit.evaluations, edit.details, tuple(notes))
    info = DeltaInfo(
        family=family,
        encoder=encoders["context"].fingerprint,
        concepts=tuple(pairs),
        keep=tuple(keep),
        method=method,
        settings=flat(edit.settings or asdict(settings)),
        measured={name.replace(" ", "_"): round(value, 4) for name, value in edit.figures.items()},
        pack_version=__version__,
        space=space,
    )
    log.info("%s", report.text())
    return ErasedDelta(edit.maps, info, edit.tuned), report


def flat(settings: Mapping, prefix: str = "") -> dict[str, float | bool | str]:
    """Nested settings as one dictionary with joined names, for a delta's metadata."""
    found = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}_")
        elif value is not None:
            found[prefix + name] = value
    return found
