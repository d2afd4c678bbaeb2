"""Latent inversion: finds the noise behind a picture of the concept, and draws from it with the erased model.

DDIM inversion (Song et al., ICLR 2021, arXiv 2010.02502) with the erased model and the empty prompt, then sampling from
that noise with a prompt under guidance. M-ErasureBench (arXiv 2512.22877) found it the strongest white-box attack.

DDIM's inversion predicts at x of the step before, so its noise is not the one that the picture comes from. Fixed-point
iteration (Pan et al., ICCV 2023; as an attack: TINA, CVPR 2026) solves each step for its own x. Without guidance,
sampling from that noise gives nearly any picture back, also one that the model could never draw, so what comes back has
to be compared with other pictures.
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
    iterations: int = 1,
) -> Tensor:  # (m, c, h, w) at the first sigma
    """Follow the sampler backwards from sigma_0 = 0: x_i+1 = x_i + (sigma_i+1 - sigma_i) e(x, sigma_i+1).

    With one iteration x is x_i, as in DDIM inversion; every further one takes the last x_i+1 for x.
    """
    sigmas = predict.denoise.schedule(steps).flip(0)
    x = pictures.clone()
    texts = texts.repeat(len(x))
    for step, (now, then) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        progress("Inverting", step, steps)
        start = x
        for _ in range(iterations):
            x = start + (then - now) * predict(x, then.expand(len(x)), texts)
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
