"""Stage 2 of TRCE from end to end: prompts, trajectories, training, report."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from time import perf_counter

from torch import Generator, Tensor

from ..closed_form.metric import gram, metric_root
from ..delta.file import ErasedDelta
from ..delta.low_rank import ContextMap
from ..files.atomic import checksum
from ..files.disk_cache import DiskCache
from ..progress import StepProgress
from ..text.embeddings import TextEncoder
from ..text.prompts import PromptPair
from ..text.tokens import CHUNK, Ids
from ..version import __version__
from .adversarial_texts import Embeddings, Words
from .adversary import Adversary, Source
from .cache import VERSION, from_tensors, to_tensors
from .data import Contexts, collect, draw_plans
from .factors import FUSED_PARTS, TRAINED, Trained, TuningError, choose
from .objective import Objective, terms
from .prompts import Request, draw_prompts, encode_prompts, with_others
from .settings import QUICK, TuneSettings, check
from .soft_prompts import SoftEncoder
from .train import Tuning, train
from .trajectories import Denoiser, Predictor

log = logging.getLogger(__name__)

ROWS = 8  # pictures predicted at a time, or more when they are small


@dataclass(frozen=True)
class TunableModel:
    """What stage 2 needs of a model. `open` loads it, and is called only if there is something to train."""

    fingerprint: str  # equal for models that predict the same
    text_readers: Sequence[str]  # parameters that the context map applies to
    open: Callable[[], AbstractContextManager[Denoiser]]
    open_encoder: Callable[[], AbstractContextManager[SoftEncoder]] | None = None  # None: not differentiable
    sets: Mapping[str, str] = field(default_factory=TRAINED.copy)  # of projections that may be trained
    sampled: Mapping[str, float] = field(default_factory=dict)  # settings for how this model is sampled

    def adapt(self, settings: TuneSettings, concepts: int = 1) -> TuneSettings:
        """The settings that this model is tuned with; every concept has a trajectory at least.

        Raises TuningError for what is invalid or the model does not have.
        """
        check(settings)
        choose((), settings.projections, self.sets)
        settings = replace(settings, trajectories=max(settings.trajectories, concepts), **self.sampled)
        return settings if self.open_encoder else replace(settings, adversary="embeddings")


@dataclass(frozen=True)
class TuneReport:
    """Figures of one tuning. settings: those that it was made with, see TunableModel.adapt."""

    tuning: Tuning
    cached: bool
    settings: TuneSettings

    def text(self) -> str:
        """The report as lines for people."""
        t = self.tuning
        if not t.losses:
            return "0 steps of tuning: nothing was trained."
        few = max(1, len(t.positions) // 10)
        first, last = (sum(part) / len(part) for part in (t.positions[:few], t.positions[-few:]))
        words = f", {t.word_evaluations} of them to learn adversarial {self.settings.adversary}"
        lines = [
            f"Tuned {len(t.tuned)} projections in {len(t.losses)} steps; change of their weights {t.changes[-1]:.1%}.",
            f"Position of the prediction (0 = on the concept, 1 = on the safe target): {first:.2f} at first, "
            f"{last:.2f} at last.",
            f"Evaluations of the model: {t.data_evaluations} for the data, {t.train_evaluations} in training"
            f"{words if t.word_evaluations else ''}.",
        ]
        seconds = ", ".join(f"{step} {value:.2f}" for step, value in t.seconds.items())
        lines.append(
            "Taken from the cache; turn on 'retrain' to train again." if self.cached else f"Seconds: {seconds}"
        )
        return "\n".join(lines)


Maps = Mapping[str, ContextMap]  # by kind of text: context, and pooled where the model reads it


def cache_key(
    request: Request, encoder: TextEncoder, model: TunableModel, maps: Maps, settings: TuneSettings
) -> list[object]:
    """Everything that the result of a tuning depends on."""
    factors = {f"{kind}.{i}": factor for kind, D in maps.items() for i, factor in enumerate(D.factors)}
    versions = [VERSION, __version__]
    return [*versions, encoder.cache_key, model.fingerprint, checksum(factors), asdict(request), asdict(settings)]


def scaled_root(denoise: Denoiser, model: TunableModel, contexts: Contexts) -> Tensor:  # (d, d) float32
    """metric_root, scaled so that L^T z is on average as long as the embedding z of an unwanted prompt."""
    z = contexts.neg.sequence.flatten(0, 1)
    kept = contexts.empty if contexts.keep is None else contexts.keep
    weights = (denoise.weights[name].detach() for name in model.text_readers)
    G = gram(weights, len(model.text_readers), z.shape[1])
    L = metric_root(G, kept.sequence.flatten(0, 1)).to(z)
    return L * (z.norm() / (z @ L).norm())


def tune(
    request: Request,
    encoders: Mapping[str, TextEncoder],
    model: TunableModel,
    maps: Maps,
    settings: TuneSettings = QUICK,
    *,
    rows: int = ROWS,
    objective: Objective = terms,
    progress: StepProgress = lambda *_: None,
) -> Tuning:
    """Train `model` on text after the maps of stage 1.

    encoders: by kind of text, see prompts.encode_prompts. rows: pictures predicted at a time.
    objective: the terms of every step; TRCE's by default. The same inputs give the same tuning, bit for bit, on one
    CPU. Raises TuningError, OutOfMemory, SoftPromptError, and whatever `progress` raises to cancel, which it may
    before every step.
    """
    settings = model.adapt(settings, len(request.pairs))
    if settings.steps == 0:
        return Tuning({}, (), (), ())
    generator = Generator().manual_seed(settings.seed)
    start = perf_counter()
    unwanted, keep = draw_prompts(request, settings, generator)
    contexts = encode_prompts(unwanted, keep, encoders, progress, with_others(unwanted, request.others))
    encoded = perf_counter()
    with ExitStack() as stack:
        soft = None
        if settings.words and objective is terms and settings.adversary == "words" and model.open_encoder:
            soft = stack.enter_context(model.open_encoder())  # first: loading it later could take the model's place
        denoise = stack.enter_context(model.open())
        # clone: tensors made in inference mode cannot enter an autograd graph
        contexts = Contexts(*(texts and texts.each(Tensor.clone) for texts in vars(contexts).values()))
        maps = {kind: ContextMap(tuple(map(Tensor.clone, D.factors))) for kind, D in maps.items()}
        predict = Predictor(denoise, max(rows, denoise.at_once))
        plans = draw_plans(len(contexts.neg), 0 if contexts.keep is None else len(contexts.keep), settings, generator)
        data = collect(predict, contexts, plans, settings, generator, progress)
        sampled = perf_counter()
        names = choose(denoise.weights, settings.projections, model.sets)
        rooted = [name for name in model.text_readers if name in names] if settings.metric and settings.rank else []
        root = scaled_root(denoise, model, contexts) if rooted else None
        W = {name: denoise.weights[name] for name in names}
        parts = FUSED_PARTS.get(settings.projections, slice(None))
        trained = Trained(W, settings.rank, generator, root, rooted, parts)
        learner = Predictor(denoise, min(denoise.at_once, predict.rows))
        if settings.words and objective is terms:
            source: Source
            if soft:
                source = Words(soft, [located(pair, encoders["context"]) for pair in unwanted])
            else:
                source = Embeddings(contexts, CHUNK if "clip" in encoders else 0, generator)
            adversary = Adversary(source, learner, trained, maps, settings, generator)
            objective = partial(terms, adversary=adversary)
        tuning = train(learner, data, contexts, maps, trained, settings, generator, progress, objective)
    readers = {name.removesuffix(".weight") for name in model.text_readers}
    tuned = {
        module: change.after(maps["context"]) if module in readers else change
        for module, change in tuning.tuned.items()
    }
    seconds = {"prompts": encoded - start, "trajectories": sampled - encoded, "tuning": perf_counter() - sampled}
    word_evaluations = learner.evaluations  # the adversary's alone: train.backward goes past this counter
    return replace(
        tuning,
        tuned=tuned,
        data_evaluations=predict.evaluations,
        train_evaluations=tuning.train_evaluations + word_evaluations,
        word_evaluations=word_evaluations,
        seconds=seconds,
    )


def located(prompt: PromptPair, encoder: TextEncoder) -> tuple[Ids, tuple[int, ...]]:
    """The ids of an unwanted prompt, and where the concept stands in it."""
    ids = encoder.tokenize(prompt.source)
    return ids, encoder.locate(ids, prompt.keyword).keyword


def request_of(delta: ErasedDelta) -> Request:
    """What a delta erases and keeps. Deltas of methods that have no setting for it use templates."""
    return Request(delta.info.concepts, delta.info.keep, bool(delta.info.settings.get("templates", True)))


def tune_delta(
    delta: ErasedDelta,
    encoders: Mapping[str, TextEncoder],
    model: TunableModel,
    settings: TuneSettings = QUICK,
    *,
    cache_dir: str | os.PathLike | None = None,
    retrain: bool = False,
    progress: StepProgress = lambda *_: None,
) -> tuple[ErasedDelta, TuneReport]:
    """Return the delta with its tuned part, from the cache in `cache_dir` unless `retrain`. Raises what `tune` does.

    encoders: by kind of text: `context`, and `pooled` and `clip` where a model reads those. With 0 steps, returns
    `delta` unchanged.
    """
    settings = model.adapt(settings, len(delta.info.concepts))
    if delta.tuned:
        raise TuningError("The delta is tuned already; tune one of the closed form.")
    request, maps = request_of(delta), delta.maps
    cache = DiskCache(cache_dir if settings.steps else None, "tuned")
    key = cache_key(request, encoders["context"], model, maps, settings)
    cached = None if retrain else cache.read(key, from_tensors)
    tuning = cached or tune(request, encoders, model, maps, settings, progress=progress)
    if not cached:
        cache.write(key, to_tensors(tuning))
    report = TuneReport(tuning, bool(cached), settings)
    log.info("%s", report.text())
    if not tuning.tuned:
        return delta, report
    info = replace(
        delta.info,
        method="trce",
        settings={**delta.info.settings, **{f"tune_{name}": value for name, value in asdict(settings).items()}},
        measured={
            **delta.info.measured,
            "tuned_position": round(tuning.positions[-1], 4),
            "tuned_change": round(tuning.changes[-1], 4),
        },
    )
    return replace(delta, tuned=tuning.tuned, info=info), report
