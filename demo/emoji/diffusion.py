"""The noise schedule of Stable Diffusion 1.5, and a DDIM sampler with classifier-free guidance for the narrow UNet."""

from __future__ import annotations

import torch
from torch import Tensor
from unet import UNet

TIMESTEPS = 1000
ALPHA_BAR = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS) ** 2, 0)


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """x_t of the forward process; timesteps (n,)."""
    alpha = ALPHA_BAR[timesteps][:, None, None, None]
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


@torch.no_grad()
def sample(
    unet: UNet,
    embeddings: Tensor,
    empty: Tensor,
    seed: int = 0,
    steps: int = 20,
    guidance: float = 4.0,
    batch: int = 64,
) -> Tensor:
    """Latents (n, 4, 8, 8) for embeddings (n, 77, width); `empty` (1, 77, width) is the empty prompt's.

    DDIM (Song et al. 2021, equation 12 without noise). Picture i depends on the seed and on i, not on the batch.
    """
    generators = [torch.Generator().manual_seed(seed * 100_003 + i) for i in range(len(embeddings))]
    noise = torch.stack([torch.randn(4, 8, 8, generator=generator) for generator in generators])
    times = torch.linspace(TIMESTEPS - 1, 0, steps + 1).round().long()
    out = []
    for x, context in zip(noise.split(batch), embeddings.split(batch), strict=True):
        both = torch.cat([context, empty.expand_as(context)])
        for now, then in zip(times[:-1], times[1:], strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                predicted = unet(torch.cat([x, x]), now.expand(2 * len(x)), both).float()
            with_prompt, without = predicted.chunk(2)
            noise_now = without + guidance * (with_prompt - without)
            alpha, next_alpha = ALPHA_BAR[now], ALPHA_BAR[then] if then else torch.tensor(1.0)
            clean = (x - (1 - alpha).sqrt() * noise_now) / alpha.sqrt()
            x = next_alpha.sqrt() * clean + (1 - next_alpha).sqrt() * noise_now
        out.append(x)
    return torch.cat(out)
