"""The autoencoder: TAESD (github.com/madebyollin/taesd) with WIDTH of its 64 channels and half of its encoder blocks.

TAESD's layers are plain convolutions, so that zero-filled extra channels and blocks change nothing: the narrow network,
padded with zeros, is the stock one (`checkpoint.py`). Parameters have TAESD's names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from common import RUNS
from torch import Tensor, nn
from torch.nn import Conv2d

WIDTH = 32  # of TAESD's 64 channels


@dataclass(frozen=True)
class Latents:
    """What a model family makes of its autoencoder's latents: ComfyUI shows the model (latent - shift) * scale."""

    channels: int
    scale: float
    shift: float
    file: Path  # of the trained autoencoder


SD15 = Latents(4, 0.18215, 0.0, RUNS / "autoencoder.safetensors")
SD3 = Latents(16, 1.5305, 0.0609, RUNS / "autoencoder_flow.safetensors")


def conv(n_in: int, n_out: int, stride: int = 1, bias: bool = True) -> Conv2d:
    return Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=bias)


class Clamp(nn.Module):
    """TAESD's soft clamp of latents to (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class Block(nn.Module):
    """TAESD's residual block: three convolutions, added to the input."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(conv(width, width), nn.ReLU(), conv(width, width), nn.ReLU(), conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


class Autoencoder(nn.Module):
    """Pictures (n, 3, 64, 64) in [0, 1] to latents (n, channels, 8, 8) of zero mean and unit variance, and back."""

    def __init__(self, latents: Latents = SD15, width: int = WIDTH):
        super().__init__()
        self.latents = latents
        encoder: list[nn.Module] = [conv(3, width)]
        for blocks in (1, 2, 3):
            encoder += [conv(width, width, stride=2, bias=False), *(Block(width) for _ in range(blocks))]
        self.taesd_encoder = nn.Sequential(*encoder, conv(width, latents.channels))
        decoder: list[nn.Module] = [Clamp(), conv(latents.channels, width), nn.ReLU()]
        for blocks in (3, 3, 3):
            decoder += [*(Block(width) for _ in range(blocks)), nn.Upsample(scale_factor=2)]
            decoder += [conv(width, width, bias=False)]
        self.taesd_decoder = nn.Sequential(*decoder, Block(width), conv(width, 3))
        # ComfyUI's TAESD reads these two: its latents are encoder(x) / vae_scale + vae_shift
        self.vae_scale = nn.Parameter(torch.tensor(1.0), requires_grad=False)
        self.vae_shift = nn.Parameter(torch.tensor(0.0), requires_grad=False)

    def encode(self, pictures: Tensor) -> Tensor:
        """What the diffusion model sees: normalised latents (n, channels, 8, 8)."""
        stored = self.taesd_encoder(pictures).float() / self.vae_scale + self.vae_shift
        return (stored - self.latents.shift) * self.latents.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (n, 3, 64, 64), not clamped."""
        stored = latents / self.latents.scale + self.latents.shift
        return self.taesd_decoder((stored - self.vae_shift) * self.vae_scale)

    @torch.no_grad()
    def normalise(self, pictures: Tensor) -> None:
        """Sets scale and shift so that `encode` has zero mean and unit variance over these pictures."""
        raw = self.taesd_encoder(pictures)
        self.vae_scale.copy_(self.latents.scale * raw.std())
        self.vae_shift.copy_(self.latents.shift - raw.mean() / self.vae_scale)


@torch.no_grad()
def start_as_thumbnail(autoencoder: Autoencoder) -> None:
    """Initialises a lossy but sensible codec: latents are the 8 x 8 thumbnail, the decoder a smooth enlargement.

    From a random start the network stays at a grey blur for minutes. The colour rides in channels 0 to 2 of every
    layer; all blocks begin as small perturbations of the identity.
    """
    point, box = torch.zeros(3, 3), torch.zeros(3, 3)
    point[1, 1] = 1.0
    box[1:, 1:] = 0.25  # with stride 2 and one pixel of padding: the 2 x 2 mean
    tent = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16

    def carry(layer: Conv2d, kernel: Tensor) -> None:
        nn.init.normal_(layer.weight, std=0.02)
        layer.weight[:3] *= 0.1
        for channel in range(3):
            layer.weight[channel, channel] = kernel
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)

    for block in (m for m in autoencoder.modules() if isinstance(m, Block)):
        nn.init.zeros_(block.conv[4].bias)
        block.conv[4].weight.mul_(0.1)
        block.conv[4].weight[:3].mul_(0.1)
    for layer in (m for m in autoencoder.taesd_encoder if isinstance(m, Conv2d)):
        carry(layer, box if layer.stride == (2, 2) else point)
    for layer in (m for m in autoencoder.taesd_decoder if isinstance(m, Conv2d)):
        carry(layer, point if layer.bias is not None else tent)


def load_autoencoder(latents: Latents = SD15) -> Autoencoder:
    """The trained autoencoder of this run."""
    from safetensors.torch import load_file

    autoencoder = Autoencoder(latents).to(memory_format=torch.channels_last)
    autoencoder.load_state_dict(load_file(latents.file))
    return autoencoder.eval().requires_grad_(False)
