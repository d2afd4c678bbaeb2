"""Adversarial texts: learned against the model while it is tuned, to erase the concept however it is asked for.

Concept inversion (Gal et al., ICLR 2023; Pham et al., ICLR 2024) finds a vector that makes an erased model draw the
concept. Here it is part of the tuning, as adversarial training is in AdvUnlearn (NeurIPS 2024) and STEREO (CVPR 2025).
In every step one of a few vectors changes one of the unwanted prompts, at several points of that prompt's trajectories:
the vector moves the model's predictions there towards e_neg, and the weights learn to send the same prompt to the safe
side. A vector is exchanged for a new one after its life, so that the weights meet many of them. What vectors are is in
adversarial_texts.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from ..delta.low_rank import ContextMap
from .data import Data
from .factors import Trained
from .losses import apart, drift
from .settings import TuneSettings
from .soft_prompts import pull_back, text_gradient
from .text_batch import Texts
from .trajectories import Predictor

LIFE = 40  # steps with a vector after which it is exchanged


class Source(Protocol):
    """Where adversarial vectors come from, and what they make of the unwanted prompts."""

    rate: float  # of Adam

    def start(self, generator: Generator) -> Tensor:  # (m, k)
        """A new vector."""
        ...

    def write(self, vector: Tensor, prompt: int) -> Texts:
        """One unwanted prompt with the vector in it, before the context maps, with a graph back to the vector."""
        ...


@dataclass(eq=False)
class Learned:
    vector: Tensor  # (m, k), as the source starts it
    optimizer: torch.optim.Optimizer
    left: int  # steps to live


class Adversary:
    """A few vectors that are learned in turn."""

    def __init__(
        self,
        source: Source,
        predict: Predictor,
        trained: Trained,
        maps: Mapping[str, ContextMap],
        settings: TuneSettings,
        generator: Generator,
    ):
        self.source, self.predict, self.trained = source, predict, trained
        self.maps, self.settings, self.generator = maps, settings, generator
        # In turn, and not all exchanged at once
        self.learned = [self._new(LIFE - j * LIFE // settings.words) for j in range(settings.words)]

    def _new(self, left: int = LIFE) -> Learned:
        vector = self.source.start(self.generator).requires_grad_()
        return Learned(vector, torch.optim.Adam([vector], lr=self.source.rate), left)

    def learn(self, data: Data) -> tuple[Tensor, Texts]:
        """Train the next vector. Returns indices (n,) of unwanted points of one prompt, and n copies of that prompt
        with the vector in it, without the context maps.

        The prompt is the one written for the vector's last update, so that no further encoding is needed. What a vector
        lowers is the mean of |e - e_neg|^2 / |e_safe - e_neg|^2, e being predicted by the model as it is; 0 where the
        two are equal.
        """
        points = data.erase
        prompt = int(points.prompts[torch.randint(len(points), (), generator=self.generator)])
        of_prompt = (points.prompts == prompt).nonzero()[:, 0]
        i = of_prompt[torch.randperm(len(of_prompt), generator=self.generator)[: self.settings.word_batch]]
        x, sigma, e_neg, e_safe = points.x[i], points.sigma[i], points.e[i], data.e_safe[i]
        gap, differs = apart(e_safe - e_neg)
        with torch.no_grad():
            weights = self.trained.overrides(self.predict.denoise.dtype)

        def losses(part: slice, texts: Texts) -> Tensor:
            e = self.predict.denoise(x[part], sigma[part], texts.moved(self.maps), weights)
            moved = drift(e, e_neg[part].to(e.device)) / gap[part].to(e.device)
            return torch.where(differs[part].to(e.device), moved, 0.0)

        learned = self.learned.pop(0)
        for _ in range(self.settings.word_updates):
            text = self.source.write(learned.vector, prompt)
            written = text.each(lambda z: z.detach().cpu()).repeat(len(i))
            gradient = self._gradient(losses, written)
            learned.optimizer.zero_grad()
            pull_back(text, gradient.each(lambda z: z.sum(0, keepdim=True)))
            learned.optimizer.step()
        learned.left -= 1
        self.learned.append(learned if learned.left else self._new())
        return i, written

    def _gradient(self, losses, texts: Texts) -> Texts:
        _, gradient = self.predict.fitting(lambda: text_gradient(losses, texts, self.predict.rows))
        self.predict.evaluations += len(texts)
        return gradient
