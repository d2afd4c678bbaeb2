"""Adversarial words: learned against the model while it is tuned, so that the concept is erased under any name.

Concept inversion (Gal et al., ICLR 2023; Pham et al., ICLR 2024) finds a vector that makes an erased model draw the
concept. Here it is part of the tuning, as adversarial training is in AdvUnlearn (NeurIPS 2024) and STEREO (CVPR 2025).
In every step one of a few words stands in the place of the concept in one of the unwanted prompts, at several points of
that prompt's trajectories: the word moves the model's predictions there towards e_neg, and the weights learn to send
the same prompt to the safe side. A word starts from a random word of the vocabulary and is exchanged for a new one
after its life, so that the weights meet many of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..delta.low_rank import ContextMap
from ..text.tokens import Ids
from .data import Data
from .factors import Trained
from .losses import drift
from .settings import TuneSettings
from .soft_prompts import SoftEncoder, pull_back, put_at, text_gradient
from .text_batch import Texts
from .trajectories import Predictor

LIFE = 40  # steps with a word after which it is exchanged
RATE = 1e-2  # of Adam, for vectors whose elements are of the order of 0.01
SIZES = (0.5, 2.0)  # of a new word, as a multiple of the vocabulary's


@dataclass(eq=False)
class Word:
    vector: Tensor  # (1, e)
    optimizer: torch.optim.Optimizer
    left: int  # steps to live


class Adversary:
    """A few learned words. `prompts`: of every unwanted prompt its ids and the concept's positions."""

    def __init__(
        self,
        encoder: SoftEncoder,
        prompts: Sequence[tuple[Ids, Sequence[int]]],
        predict: Predictor,
        trained: Trained,
        maps: Mapping[str, ContextMap],
        settings: TuneSettings,
        generator: Generator,
    ):
        self.encoder, self.prompts, self.predict, self.trained = encoder, prompts, predict, trained
        self.maps, self.settings, self.generator = maps, settings, generator
        self.vocabulary = encoder.words()[0].tolist()
        # In turn, and not all exchanged at once
        self.words = [self._new(LIFE - j * LIFE // settings.words) for j in range(settings.words)]

    def _new(self, left: int = LIFE) -> Word:
        token = self.vocabulary[int(torch.randint(len(self.vocabulary), (), generator=self.generator))]
        least, most = SIZES
        size = least + (most - least) * torch.rand((), generator=self.generator)
        vector = (size * self.encoder.look_up([token]).detach()).requires_grad_()
        return Word(vector, torch.optim.Adam([vector], lr=RATE), left)

    def learn(self, data: Data) -> tuple[Tensor, Texts]:
        """Train the next word. Returns indices (n,) of unwanted points of one prompt, and n copies of that prompt with
        the word in it, without the context maps.

        The prompt is the one encoded for the word's last update, so that no further encoding is needed. What a word
        lowers is the mean of |e - e_neg|^2 / |e_safe - e_neg|^2, e being predicted by the model as it is.
        """
        points = data.erase
        prompt = int(points.prompts[torch.randint(len(points), (), generator=self.generator)])
        of_prompt = (points.prompts == prompt).nonzero()[:, 0]
        i = of_prompt[torch.randperm(len(of_prompt), generator=self.generator)[: self.settings.word_batch]]
        x, sigma, e_neg, e_safe = points.x[i], points.sigma[i], points.e[i], data.e_safe[i]
        gap = drift(e_safe, e_neg).clamp(min=torch.finfo(e_neg.dtype).tiny ** 0.5)
        with torch.no_grad():
            weights = self.trained.overrides(self.predict.denoise.dtype)

        def losses(part: slice, texts: Texts) -> Tensor:
            e = self.predict.denoise(x[part], sigma[part], texts.moved(self.maps), weights)
            return drift(e, e_neg[part].to(e.device)) / gap[part].to(e.device)

        word = self.words.pop(0)
        for _ in range(self.settings.word_updates):
            text = self.encoder.encode([put_at(word.vector, *self.prompts[prompt])])
            written = text.each(lambda z: z.detach().cpu()).repeat(len(i))
            gradient = self._gradient(losses, written)
            word.optimizer.zero_grad()
            pull_back(text, gradient.each(lambda z: z.sum(0, keepdim=True)))
            word.optimizer.step()
        word.left -= 1
        self.words.append(word if word.left else self._new())
        return i, written

    def _gradient(self, losses, texts: Texts) -> Texts:
        _, gradient = self.predict.fitting(lambda: text_gradient(losses, texts, self.predict.rows))
        self.predict.evaluations += len(texts)
        return gradient
