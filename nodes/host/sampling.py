"""Draws pictures with a MODEL and records what it predicts on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Generator, Tensor

from ...trce_ops.evaluation.comparison import Change, squared_distances
from ...trce_ops.progress import StepProgress

SAMPLERS, SCHEDULERS = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS


@dataclass
class Points:
    """Points of a sampling run, with the model's predictions for the prompt and for the negative prompt."""

    x: list[Tensor] = field(default_factory=list)
    sigma: list[Tensor] = field(default_factory=list)
    cond: list[Tensor] = field(default_factory=list)
    uncond: list[Tensor] = field(default_factory=list)

    def record(self, args: dict) -> Tensor:
        """A post-CFG function."""
        for name, key in (("x", "input"), ("sigma", "sigma"), ("cond", "cond_denoised"), ("uncond", "uncond_denoised")):
            getattr(self, name).append(args[key].float().cpu().clone())
        return args["denoised"]


def recording(model) -> tuple[ModelPatcher, Points]:
    """A clone of MODEL that records every evaluation."""
    points = Points()
    clone = model.clone()
    clone.set_model_sampler_post_cfg_function(points.record, disable_cfg1_optimization=True)
    return clone, points


def at_points(points: Points) -> comfy.samplers.KSAMPLER:
    """A sampler that evaluates the model at given points and ignores the results."""

    def evaluate(model, noise, sigmas, extra_args=None, callback=None, disable=None):
        for x, sigma in zip(points.x, points.sigma):
            model(x.to(noise), sigma.to(noise), **(extra_args or {}))
        return noise

    return comfy.samplers.KSAMPLER(evaluate)


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn; the sizes in pixels."""

    steps: int = 20
    cfg: float = 7.0
    sampler_name: str = "euler"
    scheduler: str = "normal"
    width: int = 512
    height: int = 512

    def noise(self, model, seed: int) -> tuple[Tensor, Tensor]:
        """Empty latent and noise, as Empty Latent Image and KSampler make them."""
        empty = torch.zeros(1, 4, self.height // 8, self.width // 8)
        empty = comfy.sample.fix_empty_latent_channels(model, empty, 8)
        return empty, torch.randn(empty.shape, generator=Generator().manual_seed(seed))

    def draw(self, model, positive: list, negative: list, seed: int) -> Tensor:
        empty, noise = self.noise(model, seed)
        arguments = (self.steps, self.cfg, self.sampler_name, self.scheduler, positive, negative, empty)
        return comfy.sample.sample(model, noise, *arguments, disable_pbar=True, seed=seed)

    def predict(self, model, points: Points, positive: list, negative: list, seed: int) -> Points:
        """The predictions of MODEL at the points of another MODEL's run."""
        model, found = recording(model)
        empty, noise = self.noise(model, seed)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), self.scheduler, self.steps)
        arguments = (self.cfg, at_points(points), sigmas, positive, negative, empty)
        comfy.sample.sample_custom(model, noise, *arguments, disable_pbar=True, seed=seed)
        return found


def compare(
    models: Sequence,
    vae,
    clip,
    prompts: list[tuple[str, str]],
    negative: str,
    seeds: list[int],
    sampling: Sampling,
    progress: StepProgress,
) -> tuple[list[tuple[str, list[tuple[Tensor, Tensor]]]], list[Change]]:
    """Draw every (kind, prompt) with every seed by two MODELs: rows for the contact sheet, and the figures."""
    before, after = models

    def encode(text: str) -> list:
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    against = encode(negative)
    rows, changes = [], []
    total = len(prompts) * len(seeds)
    for number, (kind, prompt) in enumerate(prompts):
        positive, pairs = encode(prompt), []
        for place, seed in enumerate(seeds):
            progress(f"Pictures, {kind}", number * len(seeds) + place, total)
            recorded, points = recording(before)
            latents = [sampling.draw(model, positive, against, seed) for model in (recorded, after)]
            found = sampling.predict(after, points, positive, against, seed)
            pair = tuple(decode(vae, latent) for latent in latents)
            sigmas = [float(sigma.flatten()[0]) for sigma in points.sigma]
            change, pull = squared_distances(points.cond, found.cond, points.uncond, sigmas)
            picture = (pair[0] - pair[1]).abs().mean().item()
            changes.append(Change(kind, prompt, seed, change, pull, picture))
            pairs.append(pair)
        rows.append((f"{kind}: {prompt}", pairs))
    progress("Pictures", total, total)
    return rows, changes


def decode(vae, latent: Tensor) -> Tensor:  # (h, w, 3)
    """The picture of a latent; of a video, its first frame."""
    return vae.decode(latent).flatten(0, -4)[0].float().cpu()
