"""Adversarial words: learned against the model while it is tuned, so that the concept goes by any name.

Concept inversion (Gal et al., ICLR 2023; Pham et al., ICLR 2024) finds a vector that makes an erased model draw the
concept. Here it is part of the tuning, as adversarial training is in AdvUnlearn (NeurIPS 2024) and STEREO (CVPR 2025):
a few words at once, in the place of the concept in the unwanted prompts, each moves the model's prediction towards
e_neg, while the weights learn to send the same prompts to the safe side. A word starts from a random word of the
vocabulary and is exchanged for a new one after its life, so that the weights meet many of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor

from ..delta.low_rank import ContextMap
from .factors import Trained
from .losses import drift
from .settings import TuneSettings
from .soft_prompts import Row, SoftEncoder, pull_back, put_at, text_gradient
from .text_batch import Texts
from .trajectories import Predictor

LIFE = 120  # steps of the tuning after which a word is exchanged
RATE = 1e-2  # of Adam, for vectors whose elements are of the order of 0.01
SIZES = (0.5, 2.0)  # of a new word, as a multiple of the vocabulary's


class Adversary:
    """A population of learned words. `prompts`: of every unwanted prompt its ids and the concept's positions."""

    def __init__(
        self,
        encoder: SoftEncoder,
        prompts: Sequence[tuple[Sequence[int], Sequence[int]]],
        predict: Predictor,
        trained: Trained,
        maps: Mapping[str, ContextMap],
        settings: TuneSettings,
        generator: Generator,
    ):
        self.encoder, self.prompts, self.predict, self.trained = encoder, prompts, predict, trained
        self.maps, self.updates, self.generator = maps, settings.word_updates, generator
        self.vocabulary = encoder.words()[0].tolist()
        self.words: list[Tensor] = []
        self.optimizers: list[torch.optim.Optimizer] = []
        self.ages: list[int] = []
        for j in range(settings.words):
            self._renew(j, age=j * LIFE // settings.words)  # so that they are not all exchanged at once

    def _renew(self, j: int, age: int = 0) -> None:
        token = self.vocabulary[int(torch.randint(len(self.vocabulary), (), generator=self.generator))]
        least, most = SIZES
        size = least + (most - least) * torch.rand((), generator=self.generator)
        word = (size * self.encoder.look_up([token]).detach()).requires_grad_()
        self.words[j : j + 1] = [word]
        self.optimizers[j : j + 1] = [torch.optim.Adam([word], lr=RATE)]
        self.ages[j : j + 1] = [age]

    def learn(self, x: Tensor, sigma: Tensor, prompts: Tensor, e_neg: Tensor, e_safe: Tensor) -> Texts:
        """Improve as many words as there are points; returns the points' prompts with them, before the maps and
        before the last update, which needs the same encoding.

        x, e_neg, e_safe (n, c, h, w), sigma (n,), prompts (n,): of unwanted points. What a word lowers is
        |e - e_neg|^2 / |e_safe - e_neg|^2, e being predicted by the model as it is now.
        """
        chosen = [
            int(j)
            for _ in range(-(-len(x) // len(self.words)))
            for j in torch.randperm(len(self.words), generator=self.generator)
        ][: len(x)]
        gap = drift(e_safe, e_neg).clamp(min=torch.finfo(e_neg.dtype).tiny ** 0.5)
        with torch.no_grad():
            weights = self.trained.overrides(self.predict.denoise.dtype)

        def write() -> Texts:
            rows: list[Row] = [put_at(self.words[j], *self.prompts[i]) for j, i in zip(chosen, prompts.tolist())]
            return self.encoder.encode(rows)

        def losses(part: slice, texts: Texts) -> Tensor:
            e = self.predict.denoise(x[part], sigma[part], texts.moved(self.maps), weights)
            return drift(e, e_neg[part].to(e.device)) / gap[part].to(e.device)

        for _ in range(self.updates):
            texts = write()
            gradient = self._gradient(losses, texts.each(lambda z: z.detach().cpu()))
            for j in chosen:
                self.optimizers[j].zero_grad()
            pull_back(texts, gradient)
            for j in chosen:
                self.optimizers[j].step()
        for j in range(len(self.words)):
            self.ages[j] += 1
            if self.ages[j] >= LIFE:
                self._renew(j)
        return texts.each(lambda z: z.detach().cpu())

    def _gradient(self, losses, texts: Texts) -> Texts:
        while True:
            try:
                _, gradient = text_gradient(losses, texts, self.predict.rows)
            except torch.OutOfMemoryError:
                gradient = None
            if gradient is not None:
                self.predict.evaluations += len(texts)
                return gradient
            self.predict.halve()  # outside the handler: the exception keeps the tensors alive
