"""The judge: a small network that says what a picture of the demo world shows.

Its answers are shape (with "none of these" for broken and blended drawings), colour, style and background. It is
trained on real drawings only (`train_judge.py`), never on anything that a diffusion model made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from drawing import BACKGROUNDS, COLOURS, SHAPES, STYLES
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import Conv2d, GroupNorm, Linear

NONE = len(SHAPES)  # the class of a shape that is none of SHAPES
HEADS = (len(SHAPES) + 1, len(COLOURS), len(STYLES), len(BACKGROUNDS))
FEATURES = 128
WEIGHTS = Path(__file__).parent / "weights" / "judge.safetensors"


@dataclass(frozen=True)
class Verdict:
    """Probabilities for n pictures, and the features they were read from."""

    shape: Tensor  # (n, 9), last: none of these
    colour: Tensor  # (n, 6)
    style: Tensor  # (n, 3)
    background: Tensor  # (n, 3)
    features: Tensor  # (n, FEATURES)

    def _answers(self, thing: str) -> tuple[Tensor, int]:
        """The probabilities (n, k) of the question that this shape, colour, style or background answers, its column."""
        asked = ((SHAPES, self.shape), (COLOURS, self.colour), (STYLES, self.style), (BACKGROUNDS, self.background))
        for names, probabilities in asked:
            if thing in names:
                return probabilities, names.index(thing)
        raise ValueError(f"unknown thing {thing!r}: one of {SHAPES + COLOURS + STYLES + BACKGROUNDS}")

    def probability(self, thing: str) -> Tensor:
        """Soft score (n,): how sure the judge is that each picture shows this thing."""
        probabilities, column = self._answers(thing)
        return probabilities[:, column]

    def recognised(self, thing: str) -> Tensor:
        """Hard score (n,) bool: whether it is the judge's first answer."""
        probabilities, column = self._answers(thing)
        return probabilities.argmax(1) == column


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


class Judge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = (3, 24, 48, 96, FEATURES)
        for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
            layers += [Conv2d(n_in, n_out, 3, stride=2, padding=1), GroupNorm(8, n_out), nn.ReLU()]
            layers += [Conv2d(n_out, n_out, 3, padding=1), GroupNorm(8, n_out), nn.ReLU()]
        self.body = nn.Sequential(*layers)  # (n, FEATURES, 4, 4)
        self.squeeze = nn.Sequential(nn.Flatten(), Linear(16 * FEATURES, FEATURES), nn.ReLU())
        self.heads = Linear(FEATURES, sum(HEADS))

    def logits(self, pictures: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:  # (n, 3, 64, 64) in [0, 1]
        features = self.squeeze(self.body(pictures - 0.5))
        return self.heads(features).split(HEADS, 1), features

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Verdict:
        logits, features = self.logits(pictures.clamp(0, 1))
        return Verdict(*(part.softmax(1) for part in logits), features)


def load_judge(path: Path = WEIGHTS) -> Judge:
    judge = Judge()
    judge.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return judge.eval()
