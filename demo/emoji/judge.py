"""The judge: says which concept a picture shows (or none of them), in whose style, on which background.

Trained on real pictures only (`train_judge.py`), never on what the UNet draws.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from common import WEIGHTS
from safetensors.torch import load_file
from torch import Tensor, nn
from world import BACKGROUNDS, STYLES, concept_names, concepts

WIDTHS = (3, 32, 64, 128, 192)
FEATURES = 256
JUDGE_FILE = WEIGHTS / "judge.safetensors"


@dataclass(frozen=True)
class Verdict:
    """Logits for n pictures, and the features that they were read from."""

    concept: Tensor  # (n, concepts + 1), last: none of these
    style: Tensor  # (n, styles)
    background: Tensor  # (n, backgrounds)
    features: Tensor  # (n, FEATURES)

    def _answers(self, thing: str) -> tuple[Tensor, int]:
        """The logits (n, k) of the question that this concept, style or background answers, and its column."""
        asked = ((concept_names(), self.concept), (STYLES, self.style), (tuple(BACKGROUNDS), self.background))
        for names, logits in asked:
            if thing in names:
                return logits, names.index(thing)
        raise ValueError(f"unknown thing {thing!r}: expected a concept, style or background of the emoji world")

    def probability(self, thing: str) -> Tensor:
        """Soft score (n,): how sure the judge is that each picture shows this thing."""
        logits, column = self._answers(thing)
        return logits.softmax(1)[:, column]

    def recognised(self, thing: str) -> Tensor:
        """Hard score (n,) bool: whether it is the judge's first answer."""
        logits, column = self._answers(thing)
        return logits.argmax(1) == column


class Judge(nn.Module):
    """Pictures (n, 3, 64, 64) in [0, 1] to a Verdict."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in zip(WIDTHS[:-1], WIDTHS[1:], strict=True):
            layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.GroupNorm(8, n_out), nn.ReLU()]
            layers += [nn.Conv2d(n_out, n_out, 3, padding=1), nn.GroupNorm(8, n_out), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.squeeze = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * WIDTHS[-1], FEATURES), nn.ReLU())
        self.sizes = (len(concepts()) + 1, len(STYLES), len(BACKGROUNDS))
        self.heads = nn.Linear(FEATURES, sum(self.sizes))

    def forward(self, pictures: Tensor) -> Verdict:
        features = self.squeeze(self.body(pictures - 0.5).float())
        return Verdict(*self.heads(features).float().split(self.sizes, 1), features)


@torch.no_grad()
def judge_all(judge: Judge, pictures: Tensor, batch: int = 200) -> Verdict:
    """The verdict on any number of pictures."""
    parts = [judge(part.clamp(0, 1)) for part in pictures.split(batch)]
    return Verdict(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Verdict)))


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance of two sets of features (n, d), (m, d), each taken for a Gaussian (FID, arXiv 1706.08500).

    |mean_a - mean_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a C_b)^(1/2)), with C = X^T X of the centred, scaled features X:
    the last trace is the sum of the singular values of X_a X_b^T.
    """
    a, b = a.double(), b.double()
    xa, xb = ((x - x.mean(0)) / max(1, len(x) - 1) ** 0.5 for x in (a, b))
    apart = (a.mean(0) - b.mean(0)).square().sum()
    cross = torch.linalg.matrix_norm(xa @ xb.mT, "nuc")
    return (apart + xa.square().sum() + xb.square().sum() - 2 * cross).clamp(min=0).item()


def load_judge() -> Judge:
    """The judge that ships."""
    judge = Judge()
    judge.load_state_dict({name: value.float() for name, value in load_file(JUDGE_FILE).items()})
    return judge.to(memory_format=torch.channels_last).eval().requires_grad_(False)
