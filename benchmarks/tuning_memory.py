"""What stage 2 takes at the size of SD1.5: `python dev.py bench tuning_memory [--resolution N]`

Random weights in the real shape, as ComfyUI's own classes, tuned for two steps as in `quick` and as in `paper`, each in
a process of its own. Printed is the peak of the process's memory above the loaded model, in units of one fp16 model,
with as many pictures predicted at a time as in a whole tuning; the data that a whole one keeps is added up and printed
beside it. Linux only. Takes a quarter of an hour on two cores at 512 pixels.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import speed_memory
import speed_models
import torch

TOKENS, WIDTH = 77, 768
FEW = dict(draws=1, batch=1, empty_trajectories=1, empty_draws=1, empty_batch=1, keep_trajectories=3, keep_draws=1)


class RandomEncoder:
    """Embeddings of CLIP-L's shape for any text."""

    width, layers, fingerprint = WIDTH, 1, "random"

    def tokenize(self, text: str) -> tuple[int, ...]:
        return (sum(text.encode()) % 1000,) * TOKENS

    def encode(self, rows, length: int) -> torch.Tensor:
        return torch.randn(len(rows), length, WIDTH, generator=torch.Generator().manual_seed(1))


def whole_data(settings) -> float:
    """Megabytes of embeddings and points that a whole tuning keeps, for kept prompts too where there are any."""
    latent = 4 * (settings.resolution // 8) ** 2
    prompts = 2 * settings.trajectories + (2 * settings.keep_trajectories if settings.keep else 0)
    points = 4 * settings.trajectories * settings.draws + 2 * settings.empty_trajectories * settings.empty_draws
    points += 3 * settings.keep_trajectories * settings.keep_draws if settings.keep else 0
    return 4 * (prompts * TOKENS * WIDTH + points * latent) / 1e6


def measure(preset: str, resolution: int, dtype: torch.dtype) -> dict[str, float]:
    pack = speed_models.load()
    model = speed_models.make_model(dtype)
    fp16_model = 2 * sum(weight.numel() for weight in model.model.parameters()) / 1e6
    noise = torch.Generator().manual_seed(3)
    context_map = pack.context_map.ContextMap((torch.randn(WIDTH, 8, generator=noise) / 30, torch.randn(8, WIDTH)))
    info = pack.delta.DeltaInfo("sd1", "random", (pack.concepts.ConceptPair("a pistol", "an umbrella"),))
    delta = pack.delta.ErasedDelta(context_map, replace(info, settings={"templates": True}))
    whole = replace(getattr(pack.tune_settings, preset), resolution=resolution)
    settings = replace(whole, steps=2, sampling_steps=1, trajectories=pack.stage2.ROWS, **FEW)
    tunable = pack.denoiser.tunable(model, resolution)
    ctypes.CDLL(None).malloc_trim(0)  # what was freed so far is no part of what is held
    before = speed_memory.status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    pack.stage2.tune(delta, RandomEncoder(), tunable, settings)
    return {"peak": speed_memory.status("VmHWM") - before, "data": whole_data(whole), "fp16_model": fp16_model}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of the model's weights")
    parser.add_argument("--preset", choices=("QUICK", "PAPER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.preset:
        print(json.dumps(measure(options.preset, options.resolution, getattr(torch, options.dtype))))
        return
    print(f"| SD1.5 in {options.dtype} at {options.resolution} pixels | above the loaded model | of one fp16 model |")
    print("|---|---|---|")
    for preset in ("QUICK", "PAPER"):
        command = [sys.executable, __file__, "--preset", preset, "--dtype", options.dtype]
        command += ["--resolution", str(options.resolution)]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        found = SimpleNamespace(**json.loads(answer))
        total = found.peak + found.data
        print(
            f"| {preset.lower()} | {found.peak:.0f} + {found.data:.0f} MB of data | {total / found.fp16_model:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
