"""Concept inversion: learn a word that makes the erased model draw the concept.

Textual inversion (Gal et al., ICLR 2023, arXiv 2208.01618) against the erased model, on pictures that the unedited
model drew: the vectors of one pseudo-word are trained until the model denoises those pictures. Pham et al.
(ICLR 2024, arXiv 2308.01508) showed that this brings erased concepts back. How well it goes depends on the start, so a
patient attacker learns several words and takes the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter

import torch
from torch import Generator, Tensor

from ..progress import StepProgress
from ..text.tokens import content
from ..tuning.soft_prompts import SoftEncoder, encode_distinct, pull_back, put_in_place, text_gradient
from ..tuning.text_batch import Texts
from ..tuning.trajectories import Denoiser
from .evidence import LEVELS, ProbeError, denoising_loss, draw_points, noise_levels

TEMPLATES = ("a photo of *", "a picture of *", "a painting of *", "an image showing *")


@dataclass(frozen=True)
class InversionSettings:
    """learning_rate: of Adam, on vectors whose elements are of the order of 0.01 in CLIP. batch: pictures per step.

    vectors: that the word consists of. starts: words to learn; the first starts from the initial word, the others from
    random words of the vocabulary.
    """

    steps: int = 300
    learning_rate: float = 5e-3
    batch: int = 4
    vectors: int = 1
    starts: int = 1
    initial_word: str = "thing"
    seed: int = 0


@dataclass(frozen=True)
class LearnedWord:
    """The vectors (k, e) of the pseudo-word, the loss of every step, and the number of model evaluations."""

    vectors: Tensor
    losses: tuple[float, ...]
    queries: int  # forward, and backward while it learns

    def write(self, template: str, encoder: SoftEncoder) -> Texts:
        """One prompt with the learned word in place of '*'."""
        with torch.no_grad():
            return encoder.encode([put_in_place(self.vectors, template, encoder)])


def check_templates(templates: Sequence[str], vectors: int, encoder: SoftEncoder) -> None:
    """Raises ProbeError or SoftPromptError for prompts in which a word of so many vectors has no place."""
    if not templates:
        raise ProbeError("'templates' is empty; write prompts with '*' for what is learned, such as 'a photo of *'.")
    for template in templates:
        put_in_place(torch.empty(vectors, 0), template, encoder)


def learn_word(
    denoise: Denoiser,
    encoder: SoftEncoder,
    pictures: Tensor,  # (m, c, h, w) latents as the model sees them
    templates: Sequence[str] = TEMPLATES,
    settings: InversionSettings = InversionSettings(),
    *,
    rows: int = 8,
    progress: StepProgress = lambda *_: None,
    name: str = "Concept inversion",
) -> LearnedWord:
    """Train one word on pictures of the concept; `rows` of them go through the model at a time.

    Starts from the vector of the initial word. name: of the step, for `progress`. Raises ProbeError for inputs that
    cannot be used.
    """
    if settings.vectors < 1:
        raise ProbeError(f"'vectors' is {settings.vectors}; it must be 1 or more.")
    generator = Generator().manual_seed(settings.seed)
    initial = content(encoder.tokenize(settings.initial_word), encoder.eot_id)
    if not initial:
        raise ProbeError("'initial_word' is empty; write a plain word such as 'thing'.")
    check_templates(templates, settings.vectors, encoder)
    start = encoder.look_up(initial).mean(0, keepdim=True).detach()
    vectors = start.repeat(settings.vectors, 1).requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=settings.learning_rate)
    write = partial(put_in_place, vectors, encoder=encoder)
    sigmas, losses = noise_levels(denoise), []
    for step in range(settings.steps):
        progress(name, step, settings.steps)
        points = draw_points(sigmas, pictures, settings.batch, generator)
        chosen: list[int] = torch.randint(len(templates), (settings.batch,), generator=generator).tolist()
        optimizer.zero_grad()
        texts = encode_distinct([templates[i] for i in chosen], write, encoder)
        loss, gradient = text_gradient(partial(points.losses, denoise), texts, rows)
        pull_back(texts, gradient)
        optimizer.step()
        losses.append(loss)
    progress(name, settings.steps, settings.steps)
    return LearnedWord(vectors.detach(), tuple(losses), settings.steps * settings.batch)


def random_starts(encoder: SoftEncoder, settings: InversionSettings) -> list[InversionSettings]:
    """The settings of every start: the initial word first, then random words. Raises ProbeError without any."""
    if settings.starts < 1:
        raise ProbeError(f"'starts' is {settings.starts}; it must be 1 or more.")
    words = encoder.words()[1]
    drawn = torch.randint(len(words), (settings.starts - 1,), generator=Generator().manual_seed(settings.seed))
    others = [replace(settings, initial_word=words[i], seed=settings.seed + n) for n, i in enumerate(drawn.tolist(), 1)]
    return [settings, *others]


def learn_words(
    denoise: Denoiser,
    encoder: SoftEncoder,
    pictures: Tensor,  # (m, c, h, w) latents as the model sees them
    templates: Sequence[str],
    starts: Sequence[InversionSettings],
    *,
    rows: int = 8,
    progress: StepProgress = lambda *_: None,
) -> list[LearnedWord]:
    """A word from each start. First comes the one that explains the pictures best, by their denoising loss with the
    first template, on the same noise for all. Raises what learn_word does.
    """
    learn = partial(learn_word, denoise, encoder, pictures, templates, rows=rows, progress=progress)
    if len(starts) == 1:
        return [learn(starts[0])]
    found = []
    for number, start in enumerate(starts, 1):
        learned = learn(start, name=f"Concept inversion, word {number} of {len(starts)}")
        loss = denoising_loss(denoise, pictures, learned.write(templates[0], encoder), rows, starts[0].seed)
        found.append((loss.mean().item(), replace(learned, queries=learned.queries + len(pictures) * LEVELS)))
    return [learned for _, learned in sorted(found, key=itemgetter(0))]
