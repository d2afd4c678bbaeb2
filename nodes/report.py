"""Erasure Report: the same prompts and seeds through a MODEL before and after, as pictures and as figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import comfy.sample
import comfy.samplers
import torch
from comfy_api.latest import io
from torch import Generator, Tensor

from ..trce_ops.comparison import CONCEPT, KEPT, Change, report_text, squared_distances
from . import host
from .contact_sheet import draw_sheet
from .widgets import within_bounds

MAX_PROMPTS = 64


@dataclass
class Points:
    """Where a sampler asked the model, and what it was told, with the prompt and with the negative one."""

    x: list[Tensor] = field(default_factory=list)
    sigma: list[Tensor] = field(default_factory=list)
    cond: list[Tensor] = field(default_factory=list)
    uncond: list[Tensor] = field(default_factory=list)

    def record(self, args: dict) -> Tensor:
        """As a post-CFG function."""
        for name, key in (("x", "input"), ("sigma", "sigma"), ("cond", "cond_denoised"), ("uncond", "uncond_denoised")):
            getattr(self, name).append(args[key].float().cpu().clone())
        return args["denoised"]


def recording(model) -> tuple[object, Points]:
    """A clone of MODEL that notes every evaluation."""
    points = Points()
    clone = model.clone()
    clone.set_model_sampler_post_cfg_function(points.record, disable_cfg1_optimization=True)
    return clone, points


def at_points(points: Points) -> comfy.samplers.KSAMPLER:
    """A sampler that asks the model at given points, whatever it answers."""

    def ask(model, noise, sigmas, extra_args=None, callback=None, disable=None):
        for x, sigma in zip(points.x, points.sigma):
            model(x.to(noise), sigma.to(noise), **(extra_args or {}))
        return noise

    return comfy.samplers.KSAMPLER(ask)


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn."""

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    width: int
    height: int

    def noise(self, model, seed: int) -> tuple[Tensor, Tensor]:
        """Empty latent and noise, as Empty Latent Image and KSampler make them."""
        empty = torch.zeros(1, 4, self.height // 8, self.width // 8)
        empty = comfy.sample.fix_empty_latent_channels(model, empty, 8)
        return empty, torch.randn(empty.shape, generator=Generator().manual_seed(seed))

    def draw(self, model, positive: list, negative: list, seed: int) -> Tensor:
        empty, noise = self.noise(model, seed)
        told = (self.steps, self.cfg, self.sampler_name, self.scheduler, positive, negative, empty)
        return comfy.sample.sample(model, noise, *told, disable_pbar=True, seed=seed)

    def ask(self, model, points: Points, positive: list, negative: list, seed: int) -> Points:
        """What MODEL predicts at the points of another one."""
        model, found = recording(model)
        empty, noise = self.noise(model, seed)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), self.scheduler, self.steps)
        told = (self.cfg, at_points(points), sigmas, positive, negative, empty)
        comfy.sample.sample_custom(model, noise, *told, disable_pbar=True, seed=seed)
        return found


def compare(
    before,
    after,
    vae,
    encode: Callable[[str], list],
    prompts: list[tuple[str, str]],
    negative: str,
    seeds: list[int],
    sampling: Sampling,
    progress,
) -> tuple[list[tuple[str, list[tuple[Tensor, Tensor]]]], list[Change]]:
    """Draw every (kind, prompt) with every seed: rows for the contact sheet, and the figures."""
    against = encode(negative)
    rows, changes = [], []
    total = len(prompts) * len(seeds)
    for number, (kind, prompt) in enumerate(prompts):
        told, pairs = encode(prompt), []
        for place, seed in enumerate(seeds):
            progress(f"Pictures, {kind}", number * len(seeds) + place, total)
            noting, points = recording(before)
            latents = [sampling.draw(noting, told, against, seed), sampling.draw(after, told, against, seed)]
            found = sampling.ask(after, points, told, against, seed)
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
    """The picture of a latent; the first frame where there are several."""
    return vae.decode(latent).flatten(0, -4)[0].float().cpu()


class TRCEReport(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEReport",
            display_name="Erasure Report",
            category="model/trce",
            description="Draws the same prompts and seeds with a model before and after an erasure, side by side, and "
            "says how far the concept and what is to be kept have moved on this very model.",
            search_aliases=["compare", "before after", "contact sheet", "evaluate", "erase concept", "unlearn"],
            inputs=[
                io.Model.Input("before", tooltip="The model before the erasure. It is not changed."),
                io.Model.Input("after", tooltip="The model after the erasure. It is not changed."),
                io.Clip.Input("clip", tooltip="The text encoder for the prompts below."),
                io.Vae.Input("vae", tooltip="What makes pictures of latents."),
                io.String.Input(
                    "concept_prompts",
                    multiline=True,
                    default="",
                    placeholder="a photo of a star\na sheriff badge",
                    tooltip="Prompts for what was erased, one per line. Add descriptions that do not name it.",
                ),
                io.String.Input(
                    "kept_prompts",
                    multiline=True,
                    default="",
                    placeholder="a photo of a circle\na portrait of a woman",
                    tooltip="Prompts for what must stay, one per line: things close to the concept, and everyday ones.",
                ),
                io.String.Input(
                    "negative",
                    default="",
                    tooltip="The negative prompt for all of them. 'Prediction' is measured against it.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the first picture of every prompt; the next ones count up from it.",
                ),
                io.Int.Input(
                    "seeds", default=2, min=1, max=16, tooltip="How many pictures of every prompt, before and after."
                ),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps, as in KSampler."),
                io.Float.Input(
                    "cfg", default=7.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance, as in KSampler."
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="euler",
                    tooltip="Sampler, as in KSampler. Those that add noise make pictures that differ by chance.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="normal",
                    tooltip="Noise schedule, as in KSampler.",
                ),
                io.Int.Input(
                    "width", default=512, min=16, max=8192, step=8, tooltip="Width of the pictures in pixels."
                ),
                io.Int.Input(
                    "height", default=512, min=16, max=8192, step=8, tooltip="Height of the pictures in pixels."
                ),
                io.Int.Input(
                    "thumbnail",
                    default=192,
                    min=32,
                    max=2048,
                    advanced=True,
                    tooltip="Longer side of every picture on the contact sheet, in pixels.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "sheet",
                    display_name="sheet",
                    tooltip="One picture: a row for each prompt, before and after side by side for every seed.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="How far the predictions and the pictures moved, for concept prompts and for kept ones.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(
        cls,
        before,
        after,
        clip,
        vae,
        concept_prompts,
        kept_prompts,
        negative,
        seed,
        seeds,
        steps,
        cfg,
        sampler_name,
        scheduler,
        width,
        height,
        thumbnail,
    ) -> io.NodeOutput:
        prompts = [
            (kind, line.strip())
            for kind, text in ((CONCEPT, concept_prompts), (KEPT, kept_prompts))
            for line in text.splitlines()
            if line.strip()
        ]
        if not prompts or len(prompts) > MAX_PROMPTS:
            raise host.HostError(
                f"'concept_prompts' and 'kept_prompts' have {len(prompts)} lines together; write 1 to {MAX_PROMPTS}."
            )
        node_id = cls.hidden.unique_id
        rows, changes = compare(
            before,
            after,
            vae,
            lambda text: clip.encode_from_tokens_scheduled(clip.tokenize(text)),
            prompts,
            negative,
            [(seed + i) % 2**64 for i in range(seeds)],
            Sampling(steps, cfg, sampler_name, scheduler, width, height),
            host.node_progress(node_id),
        )
        text = report_text(changes)
        host.show_text(node_id, text)
        return io.NodeOutput(draw_sheet(rows, thumbnail), text)
