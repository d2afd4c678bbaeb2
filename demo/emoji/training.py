"""One training run: learning rate, clipped AdamW step, averaged weights, progress with time left, a state to resume."""

from __future__ import annotations

import json
import logging
import math
import os
import time

import torch
from common import RUNS
from torch import Tensor, nn

log = logging.getLogger(__name__)


class Run:
    """Counts steps up to `steps`; its state lies in RUNS/<name>.pt, its curve in RUNS/<name>.jsonl.

    The learning rate warms up, stays constant until `decay_from` (a step), then falls as a half cosine to zero at
    `steps`. Both may be given anew when a run is resumed, so that a constant run can be extended, or ended at any time.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        steps: int,
        lr: float,
        *,
        decay_from: int,
        warmup: int = 50,
        average: float = 0.995,
        weight_decay: float = 0.01,
        save_every: float = 600.0,
    ):
        self.name, self.model, self.steps, self.lr = name, model, steps, lr
        self.decay_from, self.warmup, self.keep, self.save_every = decay_from, warmup, average, save_every
        self.path = RUNS / f"{name}.pt"
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
        )
        self.averaged = [p.detach().clone() for p in self.parameters]
        self.step, self.seconds, self.first_step = 0, 0.0, 0
        RUNS.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.averaged = state["averaged"]
            self.step, self.seconds = state["step"], state["seconds"]
            log.info("%s: resumed at step %d", name, self.step)
        self._saved = self._said = self._last = time.monotonic()
        self._said_step = self.step
        self._losses: list[float] = []

    @property
    def done(self) -> bool:
        return self.step >= self.steps

    def rate(self) -> float:
        """The learning rate of the step to come."""
        decay = 1.0
        if self.step >= self.decay_from:
            decay = 0.5 * (1 + math.cos(math.pi * (self.step - self.decay_from) / max(1, self.steps - self.decay_from)))
        return self.lr * min(1.0, (self.step + 1 - self.first_step) / self.warmup) * max(decay, 0.005)

    @torch.no_grad()
    def start_from(self, step: int) -> None:
        """Goes on with the model's present weights as those of `step`, without an optimizer state: warms up again."""
        self.step = self.first_step = self._said_step = step
        self.averaged = [p.detach().clone() for p in self.parameters]

    def update(self, loss: Tensor) -> None:
        """One optimizer step; then the averaged weights, the log line and the saved state as they come due."""
        self.optimizer.param_groups[0]["lr"] = self.rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        keep = min(self.keep, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, self.parameters, 1 - keep)
        self._losses.append(loss.item())
        now = time.monotonic()
        self.seconds += now - self._last
        self._last = now
        if now - self._said > 30 or self.done:
            self._say(now)
        if now - self._saved > self.save_every or self.done:
            self.save()
            self._saved = now

    def _say(self, now: float) -> None:
        loss = sum(self._losses) / len(self._losses)
        pace = (now - self._said) / max(1, self.step - self._said_step)
        left = pace * (self.steps - self.step) / 60
        log.info(
            "%s: step %d/%d  loss %.4f  %.0f ms a step  %.0f min so far, %.0f min left",
            *(self.name, self.step, self.steps, loss, pace * 1000, self.seconds / 60, left),
        )
        with open(RUNS / f"{self.name}.jsonl", "a") as curve:
            line = {"step": self.step, "loss": loss, "lr": self.rate(), "seconds": self.seconds}
            curve.write(json.dumps(line) + "\n")
        self._said, self._said_step, self._losses = now, self.step, []

    def save(self) -> None:
        """Writes the full state beside the old one, then renames."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged,
            "step": self.step,
            "seconds": self.seconds,
        }
        beside = self.path.with_suffix(".part")
        torch.save(state, beside)
        os.replace(beside, self.path)

    @torch.no_grad()
    def use_average(self) -> None:
        """Puts the averaged weights into the model."""
        for parameter, value in zip(self.parameters, self.averaged, strict=True):
            parameter.copy_(value)
