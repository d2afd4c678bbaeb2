"""Which words say what pictures show, to a model: the question that a prompt answers, asked backwards.

A word is near if it moves the model's prediction from that for the empty prompt towards the noise that really is in a
noisy picture; by the angle, because a plain word says more than it should about the rest of a picture. (A diffusion
classifier, Li et al., ICCV 2023, with the direction in place of the loss.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..progress import StepProgress
from ..tuning.soft_prompts import SoftEncoder
from ..tuning.text_batch import Texts
from ..tuning.trajectories import Denoiser, Predictor
from .evidence import put_noise

ROUNDS = ((2, 8), (8, 8), (32, 1))  # points of every word, and the share of the words that go on: one in so many
DECIDING = slice(3, 8)  # noise levels, of STEPS: where it is decided what a picture shows
STEPS = 13
BATCH = 8  # words encoded at a time


@dataclass(frozen=True)
class Nearest:
    words: list[tuple[str, float]]  # with their cosines, best first; most words were dropped after a short look
    queries: int  # of the model


def nearest_words(
    denoise: Denoiser,
    encoder: SoftEncoder,
    pictures: Tensor,  # (m, c, h, w) latents as the model sees them
    words: Sequence[str],
    *,
    seed: int = 0,
    rows: int = 8,
    progress: StepProgress = lambda *_: None,
) -> Nearest:
    """Which of the words are nearest to what the pictures show."""
    ranked, queries = [(word, 0.0) for word in words], 0
    for number, (points, share) in enumerate(ROUNDS):
        left, found = [word for word, _ in ranked], []
        agreement = Agreement(denoise, encoder, pictures, points, seed=seed, rows=rows)
        for start in range(0, len(left), BATCH):
            progress(f"Nearest words, round {number + 1}", start, len(left))
            found.append(agreement(encode(encoder, left[start : start + BATCH])))
        ranked = sorted(zip(left, torch.cat(found).tolist()), key=lambda near: -near[1])
        ranked, queries = ranked[: max(1, len(ranked) // share)], queries + agreement.predict.evaluations
    return Nearest(ranked, queries)


def encode(encoder: SoftEncoder, prompts: Sequence[str]) -> Texts:
    with torch.no_grad():
        return encoder.encode([encoder.tokenize(prompt) for prompt in prompts])


class Agreement:
    """How well a text says what the pictures show: the mean cosine of e(text) - e_u and noise - e_u, in [-1, 1].

    The noise is the same for all texts, and for equal seeds.
    """

    def __init__(
        self,
        denoise: Denoiser,
        encoder: SoftEncoder,
        pictures: Tensor,  # (m, c, h, w)
        points: int = ROUNDS[-1][0],
        *,
        seed: int = 0,
        rows: int = 8,
    ):
        self.predict, i = Predictor(denoise, rows), torch.arange(points)
        sigmas, m = denoise.schedule(STEPS)[DECIDING], len(pictures)
        levels = sigmas[(i // m + i % m) % len(sigmas)]  # every level from as many points as there are levels on
        self.noised = put_noise(pictures, i % m, levels, Generator().manual_seed(seed))
        self.e_u = self.predict(self.noised.x, self.noised.sigma, encode(encoder, [""]).repeat(points))

    def __call__(self, texts: Texts) -> Tensor:  # k texts -> (k,)
        k, n = len(texts), len(self.noised)
        x, sigma = self.noised.x.repeat(k, 1, 1, 1), self.noised.sigma.repeat(k)
        e = self.predict(x, sigma, texts, torch.arange(k).repeat_interleave(n).to(texts.sequence.device))
        said = (e.unflatten(0, (k, n)) - self.e_u).flatten(2)  # (k, n, chw)
        return torch.cosine_similarity(said, (self.noised.noise - self.e_u).flatten(1), dim=-1).mean(1)
