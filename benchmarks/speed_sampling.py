"""What an erasure costs when it is applied and when pictures are drawn, at SD1.5's shape. See benchmarks/speed.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from uuid import uuid4

import torch
from speed_models import make_model
from speed_stage1 import timed

LATENT = 16  # of the picture's side; 64 is 512 pixels, at some 40 s a step on one thread
STEPS = 6


class Sampling:
    """KSampler's loop on the model as it is and on the erased one, by turns."""

    def __init__(self, pack, latent: int = LATENT, steps: int = STEPS):
        self.pack, self.latent, self.steps = pack, latent, steps
        info = pack.delta.DeltaInfo("sd1", "random", (pack.concepts.ConceptPair("a pistol"),))
        D = torch.randn(768, 768, generator=torch.Generator().manual_seed(3)) / 768**0.5
        self.delta = pack.delta.ErasedDelta(pack.context_map.ContextMap((D,)), info)
        self.model = make_model()

    def step_seconds(self, model) -> list[float]:
        """CPU time of every step but the first, during which things are loaded."""
        import comfy.sample

        noise = torch.Generator().manual_seed(5)
        context = torch.randn(2, 1, 77, 768, generator=noise)
        x = torch.randn(1, 4, self.latent, self.latent, generator=noise)
        positive, negative = ([[row, {}]] for row in context)
        ticks = []
        comfy.sample.sample(
            model,
            x,
            self.steps,
            7.5,
            "euler",
            "normal",
            positive,
            negative,
            torch.zeros_like(x),
            disable_pbar=True,
            seed=6,
            callback=lambda *_: ticks.append(time.process_time()),
        )
        return [b - a for a, b in zip(ticks, ticks[1:])]

    def compare(self, repeats: int, say: Callable[[str], None]) -> dict[str, list[float]]:
        """Medians of a step with and without the delta, a pair of them for every repeat."""
        erased = self.pack.host.apply.apply_delta(self.model, self.delta, 1.0)
        seconds = {"plain": [], "erased": []}
        for repeat in range(repeats):
            turns = [("plain", self.model), ("erased", erased)]
            for name, model in turns if repeat % 2 == 0 else turns[::-1]:
                seconds[name].append(statistics.median(self.step_seconds(model)))
            say(f"  a step {seconds['plain'][-1]:.3f} s, with the delta {seconds['erased'][-1]:.3f} s")
        return seconds

    def apply_seconds(self, repeats: int) -> list[float]:
        """Putting the delta on a MODEL, and ComfyUI multiplying it into the weights as it loads."""
        device = torch.device("cpu")
        seconds = []
        for _ in range(repeats):
            erased = self.pack.host.apply.apply_delta(self.model, self.delta, 1.0)
            erased.patches_uuid = uuid4()
            seconds.append(timed(erased.patch_model, device)[0])
            erased.unpatch_model(device)
        return seconds
