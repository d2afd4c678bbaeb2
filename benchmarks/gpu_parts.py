"""The parts of benchmarks/gpu.py: each checks or times the pack on models with random weights."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from unittest import mock

import graph_memory
import memory as peaks
import random_models
import resume
import torch
from random_models import SHAPES, SMALL_SHAPES, Shape, pack
from torch import Tensor

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
# How far map on weights and map on conditioning may lie apart, of what the map changes. Edited weights are rounded to
# the precision of the model, which in fp8 has three bits.
APART = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.1, "fp8": 0.5}
PRESETS = ("QUICK", "PAPER")
CPU_SHARES = {"QUICK": 1.01, "PAPER": 1.57}  # peak of `python dev.py bench memory`, of one fp16 model


@dataclass
class Run:
    """One part: how it is to run, and what it has found so far."""

    device: str = "cuda"
    small: bool = False
    limit: float = 60.0
    file: Path | None = None
    found: dict = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    def shape(self, kind: str) -> Shape:
        return (SMALL_SHAPES if self.small else SHAPES)[kind]

    def model(self, kind: str):
        """As it is usually run: in fp16 on a GPU."""
        dtype = torch.float16 if self.device == "cuda" else torch.float32
        return random_models.make_model(self.shape(kind), dtype, self.device)

    def clock(self) -> float:
        """Seconds, once the device has done what it was asked to."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def timed(self, function: Callable, *arguments, **options) -> tuple[float, object]:
        began = self.clock()
        result = function(*arguments, **options)
        return self.clock() - began, result

    def note(self, **found) -> None:
        """Keep figures, in the file at once. Those that are named "ok..." must be true."""
        self.found |= found
        print(json.dumps(found), flush=True)
        resume.write(self.file, self.found)


@dataclass(frozen=True)
class Erasure:
    """Stage 1 on a MODEL and a CLIP, and what tuning goes on from."""

    model: object
    lent: dict  # see nodes.host.lend
    delta: object

    def tune(self, settings, progress: Callable = lambda *_: None):
        """The tuned delta and its report."""
        tune_delta, model = pack("trce_ops.tuning.tune").tune_delta, self.lent["model"](settings.resolution)
        return tune_delta(self.delta, self.lent["encoders"], model, settings, progress=progress)


def erase(run: Run, kind: str, concepts: int, repeats: int = 0) -> Erasure:
    """Erase by default. With repeats: note the seconds of the first time, and of others, when captions are cached."""
    model, clip = run.model(kind), random_models.make_clip(kind, run.shape(kind))
    lent = pack("nodes.host.lend").lend(model, clip)
    given = {name: lent[name] for name in ("family", "space")}
    pairs = random_models.make_concepts(concepts)
    stage1 = pack("trce_ops.closed_form.erase").erase
    metric_seconds, metrics = run.timed(lent["metrics"])
    with tempfile.TemporaryDirectory() as cache:

        def once():
            return stage1(pairs, ["a painting"], lent["encoders"], metrics=metrics, cache_dir=cache, **given)[0]

        first, delta = run.timed(once)
        if repeats:
            again = [run.timed(once)[0] for _ in range(repeats)]
            seconds = {"first": first, "again": statistics.median(again), "metric": metric_seconds}
            run.note(stage1_concepts=concepts, stage1_seconds=seconds)
    return Erasure(model, lent, delta)


def draw(run: Run, kind: str, model, contexts: Tensor, steps: int, cfg: float = 4.0) -> Tensor:  # (1, 4, h, w)
    shape = run.shape(kind)
    return random_models.sample(model, shape, contexts, shape.resolution, steps, cfg=cfg)[0]


def exactness(run: Run) -> None:
    """W T on the weights and T c on the conditioning give the same picture; strength 0 gives the model's own.

    A GPU need not give the same bits twice, so the model's own picture is drawn twice: what strength 0 gives, and the
    model after the erasure, may lie as far from it as that.
    """
    torch.backends.cudnn.allow_tf32 = False
    shape, apply_delta = run.shape("sd1"), pack("nodes.host.apply").apply_delta
    delta = random_models.make_delta(shape, rank=0)
    contexts = random_models.make_contexts(shape)
    mapped = delta.context_map.apply(contexts)
    for name, dtype in DTYPES.items():
        try:
            model = random_models.make_model(shape, dtype, run.device)
            plain, *again = (draw(run, "sd1", model, contexts, steps=3) for _ in range(4))
            at_zero = apply_delta(model, delta, 0.0)
            zero = draw(run, "sd1", at_zero, contexts, steps=3)
            on_weights = draw(run, "sd1", apply_delta(model, delta, 1.0), contexts, steps=3)
            on_text = draw(run, "sd1", model, mapped, steps=3)
            after = draw(run, "sd1", model, contexts, steps=3)
        except Exception as error:
            run.note(**{f"ok_{name}": False, f"error_{name}": f"{type(error).__name__}: {error}"})
            continue
        off = partial(distance, plain)
        changed, noise = off(on_text), max(map(off, again))
        apart = ((on_weights - on_text).norm() / (on_text - plain).norm()).item()
        same = {"repeat": noise, "zero_strength": off(zero), "after_the_erasure": off(after)}
        ok = max(same.values()) <= 2 * noise and not at_zero.patches and changed > 0.01 and apart < APART[name]
        run.note(**{f"ok_{name}": ok, name: {"changed": changed, "apart": apart, "from_the_model": same}})


def distance(plain: Tensor, picture: Tensor) -> float:
    """Of two pictures, relative to the first."""
    return ((picture - plain).norm() / plain.norm()).item()


def tuning(run: Run) -> None:
    """Twenty steps move the prediction towards the safe side; a cancel leaves the model as it was."""
    import comfy.model_management as management

    erasure = erase(run, "sd1", concepts=1)
    width = run.shape("sd1").width
    nothing = replace(erasure.delta.context_map, factors=(torch.zeros(width, 0), torch.zeros(0, width)))
    delta = replace(erasure.delta, maps={"context": nothing})  # all that moves is then tuning's
    erasure = replace(erasure, delta=delta)
    settings = pack("trce_ops.tuning.settings").QUICK
    settings = replace(settings, steps=20, learning_rate=2e-3, resolution=run.shape("sd1").resolution)
    settings = replace(settings, trajectories=8, sampling_steps=8)
    weights = {name: W.cpu().clone() for name, W in erasure.model.model.state_dict().items()}

    def restored() -> bool:
        now = erasure.model.model.state_dict()
        return not management.in_training and all(torch.equal(W, now[name].cpu()) for name, W in weights.items())

    seconds, (tuned, report) = run.timed(erasure.tune, settings)
    places = report.tuning.positions
    first, last = statistics.mean(places[:5]), statistics.mean(places[-5:])
    run.note(ok_moved=last > first + 0.02, place={"first": first, "last": last}, seconds=seconds)
    run.note(ok_restored=restored())

    model = pack("nodes.host.apply").apply_delta(erasure.model, tuned, 1.0)
    moved = applied_place(run, erasure, model)
    run.note(ok_applied=moved > 0, place_applied=moved)

    def cancel(phase: str, done: int, total: int) -> None:
        if phase.startswith("Tuning") and done == 5:
            raise management.InterruptProcessingException

    try:
        erasure.tune(settings, cancel)
        run.note(ok_cancelled=False)
    except management.InterruptProcessingException:
        run.note(ok_cancelled=restored())


def applied_place(run: Run, erasure: Erasure, model) -> float:
    """Where the tuned MODEL's prediction for the concept lies: 0 = the untuned one's, 1 = that for the safe target."""
    encoder = erasure.lent["encoders"]["context"]
    (pair,) = erasure.delta.info.concepts
    unwanted, safe, empty = (encoder.encode([encoder.tokenize(text)], 77) for text in (pair.concept, pair.safe, ""))
    e, e_neg, e_safe = (
        draw(run, "sd1", which, torch.stack([context, empty]), steps=1, cfg=1.0)
        for which, context in ((model, unwanted), (erasure.model, unwanted), (erasure.model, safe))
    )
    line = e_safe - e_neg
    return (((e - e_neg) * line).sum() / line.square().sum()).item()


def memory(run: Run) -> None:
    """What tuning takes above the loaded model at its peak, one picture at a time, beside what it takes on a CPU."""
    shape = run.shape("sd1")
    for preset in PRESETS:
        dtype = "float16" if run.device == "cuda" else "float32"
        with mock.patch.object(pack("nodes.host.denoiser"), "MOST", 1):
            found = peaks.tuning(preset, shape.resolution, dtype, run.device, shape)
        share = found["peak"] / found["fp16_model"]
        run.note(**{preset: found | {"share": share, "share_on_a_cpu": CPU_SHARES[preset]}})
        if not run.small:
            run.note(**{f"ok_{preset}": share < 1.2 * CPU_SHARES[preset]})


def graphs(run: Run) -> None:
    """What two steps of tuning hold beside the weights of large models, which graph_memory.py counts from shapes."""
    models, resolution = graph_memory.MODELS, 1024
    if run.small:
        shape = run.shape("sdxl")
        models, resolution = {"small": graph_memory.Model("SDXL", shape.unet, torch.float32, 77, shape.pooled)}, 64
    for name, model in models.items():
        loaded = graph_memory.make(model, run.device)
        random_models.randomise(loaded.model, 2)
        with peaks.Peak(run.device) as peak:
            graph_memory.two_steps(loaded, model, True, resolution)
        found = {"weights": graph_memory.size(loaded) / 1e9, "beside_them": peak.mb / 1e3}
        if run.device == "cuda":
            found["reserved"] = torch.cuda.max_memory_reserved() / 1e9  # with what the allocator adds
        run.note(**{name: found})
        del loaded


def speed(run: Run, kind: str) -> None:
    """Seconds of stage 1, of quick tuning, and of a sampling step with and without the delta."""
    shape = run.shape(kind)
    erasure = erase(run, kind, concepts=2 if run.small else 20, repeats=1 if run.small else 3)
    sampling(run, kind, erasure)
    quick = replace(pack("trce_ops.tuning.settings").QUICK, resolution=shape.resolution)
    least = replace(quick, steps=2, trajectories=2, sampling_steps=4)
    erasure.tune(least)  # kernels are chosen in the first run
    few = least if run.small else replace(quick, steps=20, trajectories=16)
    _, report = erasure.tune(few)
    found, parts = report.tuning, report.tuning.seconds
    data, train = evaluations(quick)
    whole = {
        "prompts": parts["prompts"] * quick.trajectories / report.settings.trajectories,
        "trajectories": parts["trajectories"] * data / found.data_evaluations,
        "tuning": parts["tuning"] * train / found.train_evaluations,
    }
    run.note(ok_tuned=len(found.losses) == few.steps, evaluations={"data": data, "train": train})
    run.note(quick_seconds_estimated=sum(whole.values()), quick_parts_estimated=whole)
    left = run.limit - (time.perf_counter() - run.began) - 10
    if sum(whole.values()) < left and not run.small:
        seconds, (_, report) = run.timed(erasure.tune, quick)
        run.note(quick_seconds=seconds, quick_parts=dict(report.tuning.seconds))


def evaluations(settings) -> tuple[int, int]:
    """UNet evaluations of a whole tuning: for its data, and in training."""
    generator = torch.Generator().manual_seed(settings.seed)
    draw_plans = pack("trce_ops.tuning.data").draw_plans
    plans = draw_plans(settings.trajectories, settings.keep_count, settings, generator)
    words = settings.word_batch * (settings.word_updates + 1) if settings.words else 0
    return plans.evaluations, settings.steps * (settings.batch + words + settings.empty_batch + settings.keep_batch)


def sampling(run: Run, kind: str, erasure: Erasure) -> None:
    shape, steps = run.shape(kind), 3 if run.small else 12
    erased = pack("nodes.host.apply").apply_delta(erasure.model, erasure.delta, 1.0)
    contexts = random_models.make_contexts(shape)
    load = [random_models.load_seconds(erased, run.device, run.clock) for _ in range(3)]
    found: dict[str, list[float]] = {"plain": [], "erased": []}
    for repeat in range(1 if run.small else 4):
        turns = [("plain", erasure.model), ("erased", erased)]
        for name, model in turns if repeat % 2 == 0 else turns[::-1]:
            ticks = random_models.sample(model, shape, contexts, shape.resolution, steps, clock=run.clock)[1]
            found[name].append(statistics.median(ticks))
    plain, with_delta = (statistics.median(found[name]) for name in ("plain", "erased"))
    run.note(step_seconds=found, sampling_overhead=with_delta / plain - 1, load_seconds=load)


PARTS: dict[str, Callable[[Run], None]] = {
    "exactness": exactness,
    "tuning": tuning,
    "dynamic": tuning,  # with DynamicVRAM: the model is sampled between the two tunings, and so has been fetched
    "memory": memory,
    "graphs": graphs,
    "sd1": partial(speed, kind="sd1"),
    "sdxl": partial(speed, kind="sdxl"),
}
