"""Which words say what pictures show, to a model: the question that a prompt answers, asked backwards.

A word is near if it moves the model's prediction from that for the empty prompt towards the noise that really is in a
noisy picture; by the angle, because a plain word says more than it should about the rest of a picture. (A diffusion
classifier, Li et al., ICCV 2023, with the direction in place of the loss.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ..progress import StepProgress
from ..tuning.soft_prompts import SoftEncoder
from ..tuning.text_batch import Texts
from ..tuning.trajectories import Denoiser, Predictor
from .evidence import put_noise

ROUNDS = ((2, 8), (8, 8), (32, 1))  # points of every word, and the share of the words that go on: one in so many
LEVELS = (3, 8)  # noise levels, of STEPS: where it is decided what a picture shows
STEPS = 13
BATCH = 8  # words encoded at a time


def nearest_words(
    denoise: Denoiser,
    encoder: SoftEncoder,
    pictures: Tensor,  # (m, c, h, w) latents as the model sees them
    words: Sequence[str],
    *,
    seed: int = 0,
    rows: int = 8,
    progress: StepProgress = lambda *_: None,
) -> list[tuple[str, float]]:
    """The nearest words with their cosines, best first; most words are dropped after a short look."""
    ranked = [(word, 0.0) for word in words]
    for number, (points, share) in enumerate(ROUNDS):
        left, found = [word for word, _ in ranked], []
        for start in range(0, len(left), BATCH):
            progress(f"Nearest words, round {number + 1}", start, len(left))
            texts = encode(encoder, left[start : start + BATCH])
            found.append(agreement(denoise, encoder, pictures, texts, points, seed=seed, rows=rows))
        ranked = sorted(zip(left, torch.cat(found).tolist()), key=lambda near: -near[1])
        ranked = ranked[: max(1, len(ranked) // share)]
    return ranked


def encode(encoder: SoftEncoder, prompts: Sequence[str]) -> Texts:
    with torch.no_grad():
        return encoder.encode([encoder.tokenize(prompt) for prompt in prompts])


def agreement(
    denoise: Denoiser,
    encoder: SoftEncoder,
    pictures: Tensor,  # (m, c, h, w)
    texts: Texts,  # k of them
    points: int = ROUNDS[-1][0],
    *,
    seed: int = 0,
    rows: int = 8,
) -> Tensor:  # (k,)
    """How well each text says what the pictures show: the mean cosine of e(text) - e_u and noise - e_u, in [-1, 1].

    Equal seeds give equal noise, for texts that are to be compared.
    """
    predict, sigmas, i = Predictor(denoise, rows), denoise.schedule(STEPS)[slice(*LEVELS)], torch.arange(points)
    levels = sigmas[i // len(pictures) % len(sigmas)]
    noised = put_noise(pictures, i % len(pictures), levels, Generator().manual_seed(seed))
    e_u = predict(noised.x, noised.sigma, encode(encoder, [""]).repeat(points))
    wanted = (noised.noise - e_u).flatten(1)  # (points, chw)
    said = (predict(noised.x, noised.sigma, texts[j : j + 1].repeat(points)) - e_u for j in range(len(texts)))
    return torch.stack([torch.cosine_similarity(e.flatten(1), wanted).mean() for e in said])
