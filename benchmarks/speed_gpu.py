"""Both stages as a whole on a GPU, text encoding included, with random weights. See benchmarks/speed.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from speed_models import make_clip, make_model, make_prompts

CONCEPTS = 20  # times 15 templates
REPEATS = 5


def _synchronised(function: Callable) -> tuple[float, object]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def stage1(pack, kind: str, repeats: int = REPEATS) -> tuple[float, object, object]:
    """Median seconds from prompts to the map, preserve moment at hand as after the first erasure; encoder and map."""
    encoder = pack.host.encoders.ClipEncoder(make_clip(kind))
    prompts = make_prompts(pack, CONCEPTS)
    P = pack.preserve.keep_moment(pack.erase.BENIGN_CAPTIONS[:64], encoder).moment
    defaults = pack.erase.EraseSettings()

    def erase():
        pairs = pack.embeddings.embed_pairs(prompts, encoder, defaults.weights)
        factors = pack.closed_form.solve_factors(
            pairs.sources,
            pairs.targets,
            pairs.weights,
            P,
            preserve_scale=defaults.preserve,
            ridge=defaults.ridge,
        )
        return pack.closed_form.factorize(*factors)

    _synchronised(erase)  # kernels are chosen in the first run
    seconds, maps = zip(*(_synchronised(erase) for _ in range(repeats)))
    return statistics.median(seconds), encoder, maps[-1]


def stage2(pack, encoder, context_map, settings, device: str = "cuda") -> tuple[float, object]:
    """Seconds of a whole tuning in `settings`, from prompts to the tuned weights."""
    defaults = pack.erase.EraseSettings()
    concepts = tuple(pack.concepts.ConceptPair(p.concept, "an umbrella") for p in make_prompts(pack, CONCEPTS, 1))
    info = pack.delta.DeltaInfo("sd1", encoder.fingerprint, concepts, settings={"templates": defaults.templates})
    delta = pack.delta.ErasedDelta(context_map, info)
    model = make_model(torch.float16 if device == "cuda" else torch.float32, device)
    tunable = pack.denoiser.tunable(model, settings.resolution)
    return _synchronised(lambda: pack.stage2.tune(delta, encoder, tunable, settings))


def run(pack, row: Callable) -> None:
    """Print and note the figures, with the device named."""
    device = torch.cuda.get_device_name()
    for kind, name in (("sdxl", "SDXL"), ("sd1", "SD1.5")):  # SD1.5 last: stage 2 goes on from it
        try:
            seconds, encoder, context_map = stage1(pack, kind)
        except pack.host.errors.HostError as error:
            row(f"stage 1 of {name} on {device}", f"not measured: {error}")
        else:
            row(
                f"stage 1 of {name} on {device}, 300 prompt pairs",
                f"{seconds:.2f} s, n = {REPEATS}",
                **{f"gpu_stage1_{kind}_seconds": seconds},
            )
    paper = replace(pack.tune_settings.PAPER, resolution=512)
    seconds, tuning = stage2(pack, encoder, context_map, paper)
    row(
        f"stage 2 of SD1.5 on {device}, the paper's settings",
        f"{seconds:.0f} s ({tuning.data_evaluations:,} + {tuning.train_evaluations:,} UNet evaluations), n = 1",
        gpu_stage2_seconds=seconds,
    )
