"""Latent inversion: finds the noise behind a picture of the concept, and draws from it with the erased model.

DDIM inversion (Song et al., ICLR 2021, arXiv 2010.02502) with the erased model and the empty prompt, then sampling from
that noise with a prompt under guidance. M-ErasureBench (arXiv 2512.22877) found it the strongest white-box attack.
"""

from __future__ import annotations

from torch import Tensor

from ..progress import StepProgress
from ..tuning.text_batch import Texts
from ..tuning.trajectories import Predictor


def invert(
    predict: Predictor,
    pictures: Tensor,  # (m, c, h, w) latents as the model sees them
    texts: Texts,  # one
    steps: int,
    progress: StepProgress = lambda *_: None,
) -> Tensor:  # (m, c, h, w) at the first sigma
    """Follow the sampler backwards: x at sigma_i+1 = x + (sigma_i+1 - sigma_i) e(x, sigma_i+1), from sigma_0 = 0."""
    sigmas = predict.denoise.schedule(steps).flip(0)
    x = pictures.clone()
    texts = texts.repeat(len(x))
    for step, (now, then) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        progress("Inverting", step, steps)
        x = x + (then - now) * predict(x, then.expand(len(x)), texts)
    return x


def regenerate(
    predict: Predictor,
    x: Tensor,  # (m, c, h, w) at the first sigma
    texts: Texts,  # one, or one for each
    negative: Texts,  # one
    steps: int,
    guidance: float,
    progress: StepProgress = lambda *_: None,
) -> Tensor:  # (m, c, h, w) latents as the model sees them
    """Sample from x by Euler steps (DDIM) with guidance."""
    sigmas = predict.denoise.schedule(steps)
    texts = texts.repeat(len(x)) if len(texts) == 1 else texts
    negative = negative.repeat(len(x))
    for step, (now, then) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        progress("Regenerating", step, steps)
        sigma = now.expand(len(x))
        e, e_n = predict(x, sigma, texts), predict(x, sigma, negative)
        x = x + (then - now) * (e_n + guidance * (e - e_n))
    return x
