"""SD1.5's noise schedule, and a plain DDIM sampler for watching the training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEPS = 1000
# scaled-linear betas, as in SD1.5
ALPHA_BAR = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, STEPS) ** 2, 0)


def add_noise(latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:  # (n, 4, 8, 8) twice, (n,)
    a = ALPHA_BAR.to(latents.device)[t][:, None, None, None]
    return a.sqrt() * latents + (1 - a).sqrt() * noise


@torch.no_grad()
def ddim(
    unet: nn.Module, context: Tensor, empty: Tensor, noise: Tensor, *, steps: int = 20, cfg: float = 4.0
) -> Tensor:  # (n, 77, 768), (77, 768), (n, 4, 8, 8)
    """Latents (n, 4, 8, 8) for the prompts of `context`, deterministic from `noise`."""
    times = torch.linspace(STEPS - 1, 0, steps + 1).round().long()
    both = torch.cat([context, empty.expand_as(context)])
    x = noise
    for now, then in zip(times[:-1], times[1:], strict=True):
        e_c, e_u = unet(torch.cat([x, x]), now.expand(2 * len(x)).to(x.device), both).chunk(2)
        e = e_u + cfg * (e_c - e_u)
        a, b = ALPHA_BAR[now], ALPHA_BAR[then] if then else torch.tensor(1.0)
        x = b.sqrt() * (x - (1 - a).sqrt() * e) / a.sqrt() + (1 - b).sqrt() * e
    return x
