"""What the training scripts share: where files lie, saving that survives an interruption, a progress line."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights"  # what ships
RUNS = Path(__file__).parent / "runs"  # what training leaves on the way, ignored by git


def save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes beside, then renames: whoever reads the file finds the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, beside, metadata)
    os.replace(beside, path)


class Run:
    """One training run of `steps` steps: its schedule, its log line and its resumable state in RUNS/<name>.pt.

    The state is our own file, read with weights_only; the shipped weights are safetensors.
    """

    def __init__(self, name: str, model: nn.Module, steps: int, lr: float, *, average: float = 0.0, warmup: int = 20):
        self.path = RUNS / f"{name}.pt"
        self.log_path = RUNS / f"{name}.jsonl"
        self.model = model
        self.steps = steps
        self.step = 0
        self.average = average
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
        self.lr = lr
        self.warmup = warmup
        self.seconds = 0.0
        self.averaged = {k: v.detach().clone() for k, v in model.state_dict().items()} if average else None
        RUNS.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds, self.averaged = state["step"], state["seconds"], state["averaged"]
        self._saved = self._said = self._last = time.monotonic()
        self._losses: list[float] = []

    def rate(self) -> float:
        """Learning rate now: linear warm-up, constant for half of the run, then a cosine to zero."""
        progress = self.step / self.steps
        decay = 1.0 if progress < 0.5 else 0.5 * (1 + torch.cos(torch.tensor((progress - 0.5) * 2 * torch.pi)).item())
        return self.lr * min(1.0, (self.step + 1) / self.warmup) * decay

    def update(self, loss: Tensor) -> None:
        """One optimizer step; then the average of the weights, the log, and the saved state as they come due."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        if self.averaged is not None:
            keep = min(self.average, (1 + self.step) / (10 + self.step))
            for name, value in self.model.state_dict().items():
                self.averaged[name].lerp_(value, 1 - keep) if value.is_floating_point() else None
        self._losses.append(loss.item())
        now = time.monotonic()
        self.seconds += now - self._last
        self._last = now
        if now - self._said > 10 or self.step == self.steps:
            mean = sum(self._losses) / len(self._losses)
            left = self.seconds / self.step * (self.steps - self.step)
            done = f"step {self.step}/{self.steps}  loss {mean:.5f}"
            print(f"{done}  {self.seconds:.0f} s, {left:.0f} s left", flush=True)
            with open(self.log_path, "a") as log:
                log.write(json.dumps({"step": self.step, "loss": mean, "seconds": self.seconds}) + "\n")
            self._said, self._losses = now, []
        if now - self._saved > 60 or self.step == self.steps:
            self.save()
            self._saved = now

    def save(self) -> None:
        beside = self.path.with_suffix(".part")
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "averaged": self.averaged,
        }
        torch.save(state, beside)
        os.replace(beside, self.path)

    def weights(self) -> dict[str, Tensor]:
        return self.averaged if self.averaged is not None else self.model.state_dict()


def load_weights(name: str) -> dict[str, Tensor]:
    """A file of the training so far; says which command makes it when it is not there."""
    path = RUNS / f"{name}.safetensors"
    if not path.exists():
        sys.exit(f"{path} is missing: run `python demo/train_{name}.py` first")
    return load_file(path)
