"""Concept inversion: learn a word that makes the erased model draw the concept.

Textual inversion (Gal et al., ICLR 2023, arXiv 2208.01618) against the erased model, on pictures that the unedited
model drew: the vectors of one pseudo-word are trained until the model denoises those pictures. Pham et al.
(ICLR 2024, arXiv 2308.01508) showed that this brings erased concepts back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from ..progress import StepProgress
from ..text.tokens import content
from ..tuning.soft_prompts import SoftEncoder, encode_distinct, pull_back, put_in_place, text_gradient
from ..tuning.text_batch import Texts
from ..tuning.trajectories import Denoiser
from .evidence import ProbeError, draw_points, noise_levels

TEMPLATES = ("a photo of *", "a picture of *", "a painting of *", "an image showing *")


@dataclass(frozen=True)
class InversionSettings:
    """learning_rate: of Adam, on vectors whose elements are of the order of 0.01 in CLIP. batch: pictures per step."""

    steps: int = 300
    learning_rate: float = 5e-3
    batch: int = 4
    initial_word: str = "thing"
    seed: int = 0


@dataclass(frozen=True)
class LearnedWord:
    """The vectors (k, e) of the pseudo-word, the loss of every step, and the number of model evaluations."""

    vectors: Tensor
    losses: tuple[float, ...]
    queries: int  # forward and backward

    def write(self, template: str, encoder: SoftEncoder) -> Texts:
        """One prompt with the learned word in place of '*'."""
        with torch.no_grad():
            return encoder.encode([put_in_place(self.vectors, template, encoder)])


def learn_word(
    denoise: Denoiser,
    encoder: SoftEncoder,
    pictures: Tensor,  # (m, c, h, w) latents as the model sees them
    templates: Sequence[str] = TEMPLATES,
    settings: InversionSettings = InversionSettings(),
    *,
    rows: int = 8,
    progress: StepProgress = lambda *_: None,
) -> LearnedWord:
    """Train the word on pictures of the concept; `rows` of them go through the model at a time.

    Starts from the vector of the initial word. Raises ProbeError for inputs that cannot be used.
    """
    generator = Generator().manual_seed(settings.seed)
    initial = content(encoder.tokenize(settings.initial_word), encoder.eot_id)
    if not initial:
        raise ProbeError("'initial_word' is empty; write a plain word such as 'thing'.")
    if not templates:
        raise ProbeError("'templates' is empty; write prompts with '*' for what is learned, such as 'a photo of *'.")
    vectors = encoder.look_up(initial).mean(0, keepdim=True).detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=settings.learning_rate)
    write = partial(put_in_place, vectors, encoder=encoder)
    sigmas, losses = noise_levels(denoise), []
    for step in range(settings.steps):
        progress("Concept inversion", step, settings.steps)
        points = draw_points(sigmas, pictures, settings.batch, generator)
        chosen: list[int] = torch.randint(len(templates), (settings.batch,), generator=generator).tolist()
        optimizer.zero_grad()
        texts = encode_distinct([templates[i] for i in chosen], write, encoder)
        loss, gradient = text_gradient(partial(points.losses, denoise), texts, rows)
        pull_back(texts, gradient)
        optimizer.step()
        losses.append(loss)
    progress("Concept inversion", settings.steps, settings.steps)
    return LearnedWord(vectors.detach(), tuple(losses), settings.steps * settings.batch)
