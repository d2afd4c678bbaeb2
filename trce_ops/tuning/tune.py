"""Stage 2 of TRCE from an erased delta to a tuned one: prompts, trajectories, training, figures."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from time import perf_counter

from torch import Generator, Tensor

from ..closed_form.metric import cues, gram
from ..delta.file import ErasedDelta
from ..progress import StepProgress
from ..text.embeddings import TextEncoder
from ..version import __version__
from . import cache as tuning_cache
from .data import Contexts, collect, draw_plans
from .factors import Trained, choose
from .objective import Objective, terms
from .prompts import encode_prompts
from .settings import QUICK, TuneSettings, check
from .train import Tuning, train
from .trajectories import Denoiser, Predictor

log = logging.getLogger(__name__)

ROWS = 8  # pictures predicted at a time, or more when they are small, as far as the memory goes
GRAPH = 64 * 64  # latent pixels in one graph: one picture of 512 x 512, so that memory is that of one


@dataclass(frozen=True)
class TunableModel:
    """What stage 2 needs of a MODEL. It is opened only when there is something to train."""

    fingerprint: str  # equal for models that predict the same
    text_readers: Sequence[str]  # parameters that the context map goes on
    open: Callable[[], AbstractContextManager[Denoiser]]


@dataclass(frozen=True)
class TuneReport:
    """Figures of one tuning."""

    tuning: Tuning
    cached: bool

    def text(self) -> str:
        """The report as lines for people."""
        t = self.tuning
        if not t.losses:
            return "Tuned in 0 steps: nothing beyond the closed form."
        few = max(1, len(t.positions) // 10)
        first, last = (sum(part) / len(part) for part in (t.positions[:few], t.positions[-few:]))
        lines = [
            f"Tuned {len(t.tuned)} projections in {len(t.losses)} steps; change of their weights {t.changes[-1]:.1%}.",
            f"Place of the prediction (0 = on the concept, 1 = on the safe target): {first:.2f} at first, "
            f"{last:.2f} at last.",
            f"UNet evaluations: {t.data_evaluations} for the data, {t.train_evaluations} in training.",
        ]
        if self.cached:
            lines.append("Taken from the cache; turn on 'retrain' to do it again.")
        else:
            lines.append("Seconds: " + ", ".join(f"{step} {value:.2f}" for step, value in t.seconds.items()))
        return "\n".join(lines)


def cache_key(delta: ErasedDelta, model: TunableModel, settings: TuneSettings) -> str:
    """Everything that a tuning depends on."""
    info = delta.info
    parts = [
        tuning_cache.VERSION,
        __version__,
        info.encoder,
        model.fingerprint,
        [[pair.concept, pair.safe] for pair in info.concepts],
        list(info.keep),
        dict(info.settings),
        asdict(settings),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def metric_root(denoise: Denoiser, model: TunableModel, contexts: Contexts) -> Tensor:  # (d, d) float32
    """L of metric.py, scaled so that L^T z is on average as long as the embedding z of an unwanted prompt."""
    z = contexts.neg.sequence.flatten(0, 1)
    kept = contexts.empty if contexts.keep is None else contexts.keep
    weights = (denoise.weights[name].detach() for name in model.text_readers)
    G = gram(weights, len(model.text_readers), z.shape[1])
    L = cues(G, kept.sequence.flatten(0, 1)).to(z)
    return L * (z.norm() / (z @ L).norm())


def tune(
    delta: ErasedDelta,
    encoder: TextEncoder,
    model: TunableModel,
    settings: TuneSettings = QUICK,
    *,
    pooled: TextEncoder | None = None,
    rows: int = ROWS,
    objective: Objective = terms,
    progress: StepProgress = lambda *_: None,
) -> Tuning:
    """Tune `model` on top of the stage-1 `delta`. The same inputs give the same tuning, bit for bit, on one machine.

    objective: what is trained, step by step; TRCE's own unless said otherwise.
    Raises TuningError, OutOfMemory, and whatever `progress` raises to cancel, which it may before every step.
    """
    check(settings)
    if settings.steps == 0:
        return Tuning({}, (), (), ())
    generator = Generator().manual_seed(settings.seed)
    start = perf_counter()
    contexts = encode_prompts(delta, encoder, pooled, settings, generator, progress)
    encoded = perf_counter()
    with model.open() as denoise:
        # clone: what was embedded in inference mode takes no part in a graph
        contexts = Contexts(*(texts and texts.each(Tensor.clone) for texts in vars(contexts).values()))
        in_graph = max(1, GRAPH // math.prod(denoise.shape[1:]))
        predict = Predictor(denoise, max(rows, in_graph))
        plans = draw_plans(len(contexts.neg), 0 if contexts.keep is None else len(contexts.keep), settings, generator)
        data = collect(predict, contexts, plans, settings, generator, progress)
        sampled = perf_counter()
        maps = {"context": delta.context_map, **delta.streams}
        names = choose(denoise.weights, settings.projections)
        readers = [name for name in model.text_readers if name in names] if settings.metric and settings.rank else []
        roots = dict.fromkeys(readers, readers and metric_root(denoise, model, contexts))
        trained = Trained({name: denoise.weights[name] for name in names}, settings.rank, generator, roots)
        learner = Predictor(denoise, min(in_graph, predict.rows))
        tuning = train(learner, data, contexts, maps, trained, settings, generator, progress, objective)
    readers = {name.removesuffix(".weight") for name in model.text_readers}
    tuned = {
        module: change.after(delta.context_map) if module in readers else change
        for module, change in tuning.tuned.items()
    }
    seconds = {
        "prompts": encoded - start,
        "trajectories": sampled - encoded,
        "tuning": perf_counter() - sampled,
    }
    return replace(tuning, tuned=tuned, data_evaluations=predict.evaluations, seconds=seconds)


def tune_delta(
    delta: ErasedDelta,
    encoder: TextEncoder,
    model: TunableModel,
    settings: TuneSettings = QUICK,
    *,
    pooled: TextEncoder | None = None,
    cache_dir: str | os.PathLike | None = None,
    retrain: bool = False,
    progress: StepProgress = lambda *_: None,
) -> tuple[ErasedDelta, TuneReport]:
    """The delta with its tuned part, from the cache in `cache_dir` when it is there and `retrain` does not forbid it.

    With 0 steps it is the delta of stage 1 as it came.
    """
    check(settings)
    path = cache_dir and settings.steps and tuning_cache.path(cache_dir, cache_key(delta, model, settings))
    cached = None if retrain or not path else tuning_cache.read(path)
    tuning = cached or tune(delta, encoder, model, settings, pooled=pooled, progress=progress)
    if path and not cached:
        tuning_cache.write(path, tuning)
    report = TuneReport(tuning, bool(cached))
    log.info("%s", report.text())
    if not tuning.tuned:
        return delta, report
    info = replace(
        delta.info,
        method="trce",
        settings={**delta.info.settings, **{f"tune_{name}": value for name, value in asdict(settings).items()}},
        measured={
            **delta.info.measured,
            "tuned_place": round(tuning.positions[-1], 4),
            "tuned_change": round(tuning.changes[-1], 4),
        },
    )
    return replace(delta, tuned=tuning.tuned, info=info), report
