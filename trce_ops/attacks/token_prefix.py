"""Token prefix: words before a prompt that make the erased model draw the concept again.

The objective of UnlearnDiffAtk (Zhang et al., ECCV 2024, arXiv 2310.11868): k tokens before the prompt that minimise
|e(x_t, prefix + prompt) - noise|^2 on pictures of the concept, with the model under attack alone. The search is greedy
coordinate descent (Zou et al. 2023, arXiv 2307.15043): the gradient ranks replacements for every token, some candidates
are evaluated, and the best one is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Generator, Tensor

from ..progress import StepProgress
from ..text.tokens import Ids
from ..tuning.soft_prompts import SoftEncoder, encode_distinct, pull_back, put_before, text_gradient
from ..tuning.trajectories import Denoiser, Predictor
from .evidence import ProbeError, draw_points, noise_levels


@dataclass(frozen=True)
class PrefixSettings:
    """candidates: replacements drawn in every step from the `ranked` best of every position; each is tried once."""

    tokens: int = 3
    steps: int = 20
    candidates: int = 16
    ranked: int = 32
    batch: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Prefix:
    """The tokens found, their spelling, the loss of every step, and the number of model evaluations."""

    ids: tuple[int, ...]
    words: tuple[str, ...]
    losses: tuple[float, ...]
    queries: int

    def write(self, prompt: str) -> str:
        return " ".join([*self.words, prompt])


def search_prefix(
    denoise: Denoiser,
    encoder: SoftEncoder,
    pictures: Tensor,  # (m, c, h, w) latents as the model sees them
    prompts: Sequence[str],  # one for all pictures, or one for each
    settings: PrefixSettings = PrefixSettings(),
    *,
    rows: int = 8,
    progress: StepProgress = lambda *_: None,
) -> Prefix:
    """Search for one prefix for all prompts; it starts from random words.

    The current prefix and the candidates are compared on the same pictures and noise, which are new in every step.
    Raises ProbeError for inputs that cannot be used.
    """
    if len(prompts) not in (1, len(pictures)):
        raise ProbeError(f"There are {len(pictures)} pictures and {len(prompts)} prompts; give one prompt or as many.")
    if settings.tokens < 1:
        raise ProbeError(f"'tokens' is {settings.tokens}; it must be 1 or more.")
    generator = Generator().manual_seed(settings.seed)
    vocabulary, spelled = encoder.words()
    written = dict(zip(vocabulary.tolist(), spelled))
    ids = [encoder.tokenize(prompt) for prompt in prompts]
    prefix = tuple(vocabulary[torch.randint(len(vocabulary), (settings.tokens,), generator=generator)].tolist())
    predict = Predictor(denoise, rows)
    sigmas = noise_levels(denoise)
    losses, queries = [], 0
    for step in range(settings.steps):
        progress("Token prefix", step, settings.steps)
        points = draw_points(sigmas, pictures, settings.batch, generator)
        prompt_ids: list[Ids] = [ids[i if len(prompts) > 1 else 0] for i in points.pictures.tolist()]
        vectors = encoder.look_up(prefix).detach().clone().requires_grad_()
        texts = encode_distinct(prompt_ids, partial(put_before, vectors, eot_id=encoder.eot_id), encoder)
        loss, gradient = text_gradient(partial(points.losses, denoise), texts, rows)
        pull_back(texts, gradient)
        queries += len(points)
        # First order: putting token v in place i changes the loss by (E_v - E_i) . g_i, so small E_v . g_i is good.
        ranking = encoder.products(cast(Tensor, vectors.grad))[:, vocabulary].argsort(1)[:, : settings.ranked]
        candidates: dict[Ids, None] = {}  # each once, in order
        for _ in range(settings.candidates):
            place = int(torch.randint(settings.tokens, (), generator=generator))
            choice = int(torch.randint(ranking.shape[1], (), generator=generator))
            token = int(vocabulary[ranking[place, choice]])
            candidates[(*prefix[:place], token, *prefix[place + 1 :])] = None
        candidates.pop(prefix, None)
        best = loss
        for candidate in candidates:
            with torch.no_grad():
                texts = encode_distinct(prompt_ids, partial(put_before, candidate, eot_id=encoder.eot_id), encoder)
                value = points.errors(predict(points.x, points.sigma, texts)).mean().item()
            if value < best:
                best, prefix = value, candidate
        losses.append(best)
    progress("Token prefix", settings.steps, settings.steps)
    return Prefix(prefix, tuple(written[i] for i in prefix), tuple(losses), queries + predict.evaluations)
