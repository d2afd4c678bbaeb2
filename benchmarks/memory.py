"""What do the two stages take at their peaks? `python dev.py bench memory [--resolution N] [--dtype bfloat16]`

At the size of SD1.5 with random weights, as ComfyUI's own classes, each measurement in a process of its own. Printed is
the peak of the process's memory beyond what it held before: the working set of stage 1, ours and the official one, for
300 pairs; and what tuning takes above the loaded model, as in `quick` and as in `paper`, in units of one fp16 model.
Tuning runs for two steps with as many pictures predicted at a time as in a whole one; the data that a whole one keeps
is added up and printed beside it. Linux only, where the kernel can be told to forget an earlier peak. Takes twenty
minutes on two cores at 512 pixels, and 8 GB.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import random_models
import torch
from random_models import SHAPES, Shape, pack

OURS, OFFICIAL = "ours", "official"
TOKENS = 77
FEW = dict(draws=1, batch=1, empty_trajectories=1, empty_draws=1, empty_batch=1, keep_trajectories=3, keep_draws=1)


class Peak:
    """with Peak(device) as peak: ...; then peak.mb is what was held at most beyond what was held at first."""

    def __init__(self, device: str = "cpu"):
        self.cuda = device == "cuda"
        self.mb = 0.0

    def __enter__(self) -> Peak:
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated() / 1e6
        else:
            ctypes.CDLL(None).malloc_trim(0)  # what was freed so far is no part of what is held
            self.before = _status("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")
        return self

    def __exit__(self, *_) -> None:
        self.mb = (torch.cuda.max_memory_allocated() / 1e6 if self.cuda else _status("VmHWM")) - self.before


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field))


def supported() -> bool:
    return os.access("/proc/self/clear_refs", os.W_OK)


def stage1(procedure: str, concepts: int) -> dict[str, float]:
    """Both procedures end with the edited projections in memory."""
    import official_stage1 as official
    from speed_stage1 import Stage1

    torch.set_num_threads(1)
    with torch.inference_mode():
        stage1 = Stage1()
        prompts = random_models.make_prompts(concepts)
        cache = stage1.cache() if procedure == OFFICIAL else None
        with Peak() as peak:
            if procedure == OFFICIAL:
                edited = official.refine(stage1.projections, stage1.prepare(prompts), cache)
            else:
                edited = stage1.apply(stage1.context_map(stage1.solve(stage1.embed(prompts))))
        assert len(edited) == len(stage1.projections)
    return {"peak": peak.mb}


def whole_data(settings, width: int) -> float:
    """Megabytes of embeddings and points that a whole tuning keeps, for kept prompts too where there are any."""
    latent = 4 * (settings.resolution // 8) ** 2
    prompts = 2 * settings.trajectories + (2 * settings.keep_trajectories if settings.keep else 0)
    points = 4 * settings.trajectories * settings.draws + 2 * settings.empty_trajectories * settings.empty_draws
    points += 3 * settings.keep_trajectories * settings.keep_draws if settings.keep else 0
    return 4 * (prompts * TOKENS * width + points * latent) / 1e6


def tuning(preset: str, resolution: int, dtype: str, device: str = "cpu", shape: Shape = SHAPES["sd1"]) -> dict:
    """Megabytes: the peak, the data of a whole tuning (which stays on the CPU), and one fp16 model."""
    tune = pack("trce_ops.tuning.tune")
    model = random_models.make_model(shape, getattr(torch, dtype), device)
    fp16_model = 2 * sum(weight.numel() for weight in model.model.parameters()) / 1e6
    whole = replace(getattr(pack("trce_ops.tuning.settings"), preset), resolution=resolution)
    settings = replace(whole, steps=2, sampling_steps=1, trajectories=tune.ROWS, **FEW)
    lent = pack("nodes.host.lend").lend(model, random_models.make_clip("sdxl" if shape.pooled else "sd1", shape))
    delta = random_models.make_delta(shape)
    with Peak(device) as peak:
        tune.tune_delta(delta, lent["encoders"], lent["model"](resolution), settings)
    return {"peak": peak.mb, "data": whole_data(whole, shape.width), "fp16_model": fp16_model}


MEASURES = {"stage1": stage1, "tuning": tuning}


def measure(what: str, *arguments: str | int) -> dict[str, float]:
    """One of MEASURES in a process of its own."""
    command = [sys.executable, __file__, "--only", json.dumps([what, *arguments])]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(answer.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=int, default=20, help="of stage 1, with 15 prompts each")
    parser.add_argument("--resolution", type=int, default=512, help="of tuning")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of tuning's model")
    parser.add_argument("--only", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        what, *arguments = options.only
        random_models.load()
        print(json.dumps(MEASURES[what](*arguments)))
        return
    print("| | MB beyond what was held | of one fp16 model |\n|---|---|---|")
    for procedure in (OURS, OFFICIAL):
        print(f"| stage 1, {procedure} | {measure('stage1', procedure, options.concepts)['peak']:.0f} | |", flush=True)
    for preset in ("QUICK", "PAPER"):
        found = measure("tuning", preset, options.resolution, options.dtype)
        share = (found["peak"] + found["data"]) / found["fp16_model"]
        what = f"tuning, {preset.lower()}, {options.dtype}, {options.resolution} pixels"
        print(f"| {what} | {found['peak']:.0f} + {found['data']:.0f} of data | {share:.2f} |", flush=True)


if __name__ == "__main__":
    main()
