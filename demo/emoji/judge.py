"""The judge: says which concept a picture shows (or none of them), in whose style, on which background.

Trained on real pictures only (`train_judge.py`), never on what the UNet draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from common import WEIGHTS
from safetensors.torch import load_file
from torch import Tensor, nn
from world import BACKGROUNDS, STYLES, concepts

WIDTHS = (3, 32, 64, 128, 192)
JUDGE_FILE = WEIGHTS / "judge.safetensors"


@dataclass(frozen=True)
class Verdict:
    """Logits of n pictures: concept (n, concepts + 1; the last is "none of these"), style, background."""

    concept: Tensor
    style: Tensor
    background: Tensor


class Judge(nn.Module):
    """Pictures (n, 3, 64, 64) in [0, 1] to a Verdict."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in zip(WIDTHS[:-1], WIDTHS[1:], strict=True):
            layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.GroupNorm(8, n_out), nn.ReLU()]
            layers += [nn.Conv2d(n_out, n_out, 3, padding=1), nn.GroupNorm(8, n_out), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.squeeze = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * WIDTHS[-1], 256), nn.ReLU())
        self.sizes = (len(concepts()) + 1, len(STYLES), len(BACKGROUNDS))
        self.heads = nn.Linear(256, sum(self.sizes))

    def forward(self, pictures: Tensor) -> Verdict:
        features = self.squeeze(self.body(pictures - 0.5).float())
        return Verdict(*self.heads(features).float().split(self.sizes, 1))


@torch.no_grad()
def judge_all(judge: Judge, pictures: Tensor, batch: int = 200) -> Verdict:
    """The verdict on any number of pictures."""
    parts = [judge(part.clamp(0, 1)) for part in pictures.split(batch)]
    return Verdict(*(torch.cat([getattr(p, name) for p in parts]) for name in ("concept", "style", "background")))


def load_judge() -> Judge:
    """The judge that ships."""
    judge = Judge()
    judge.load_state_dict({name: value.float() for name, value in load_file(JUDGE_FILE).items()})
    return judge.to(memory_format=torch.channels_last).eval().requires_grad_(False)
