"""The demo model's autoencoder: TAESD (github.com/madebyollin/taesd) with WIDTH of its 64 channels.

TAESD adds up its channels with plain convolutions, so that zero-filled extra channels change nothing: the narrow
network, padded with zeros, is the full one exactly (`build_checkpoint.py`). Parameters have TAESD's names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import Conv2d

WIDTH = 24  # of TAESD's 64 channels
LATENT_CHANNELS = 4
SD15_LATENT_SCALE = 0.18215  # what ComfyUI multiplies SD1.5 latents with before the UNet sees them


def conv(n_in: int, n_out: int, **options) -> Conv2d:
    return Conv2d(n_in, n_out, 3, padding=1, **options)


class Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(conv(width, width), nn.ReLU(), conv(width, width), nn.ReLU(), conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


class Autoencoder(nn.Module):
    """Pictures (n, 3, 64, 64) in [0, 1] to latents (n, 4, 8, 8) of about unit variance, and back."""

    def __init__(self, width: int = WIDTH):
        super().__init__()
        w = width
        encoder = [conv(3, w), Block(w)]
        for _ in range(3):
            encoder += [conv(w, w, stride=2, bias=False), Block(w), Block(w), Block(w)]
        self.taesd_encoder = nn.Sequential(*encoder, conv(w, LATENT_CHANNELS))
        decoder = [Clamp(), conv(LATENT_CHANNELS, w), nn.ReLU()]
        for blocks in (3, 3, 3):
            decoder += [*(Block(w) for _ in range(blocks)), nn.Upsample(scale_factor=2), conv(w, w, bias=False)]
        self.taesd_decoder = nn.Sequential(*decoder, Block(w), conv(w, 3))
        # ComfyUI's TAESD reads these two: its latents are encoder(x) / vae_scale + vae_shift
        self.vae_scale = nn.Parameter(torch.tensor(1.0), requires_grad=False)
        self.vae_shift = nn.Parameter(torch.tensor(0.0), requires_grad=False)

    def encode(self, pictures: Tensor) -> Tensor:  # (n, 3, 64, 64)
        """What the UNet sees: normalised latents (n, 4, 8, 8)."""
        return (self.taesd_encoder(pictures) / self.vae_scale + self.vae_shift) * SD15_LATENT_SCALE

    def decode(self, latents: Tensor) -> Tensor:  # (n, 4, 8, 8)
        return self.taesd_decoder((latents / SD15_LATENT_SCALE - self.vae_shift) * self.vae_scale)

    @torch.no_grad()
    def normalise(self, pictures: Tensor) -> None:
        """Sets scale and shift so that `encode` has zero mean and unit variance over these pictures."""
        raw = self.taesd_encoder(pictures)
        self.vae_scale.copy_(SD15_LATENT_SCALE * raw.std())
        self.vae_shift.copy_(-raw.mean() / self.vae_scale)


@torch.no_grad()
def thumbnail_start(autoencoder: Autoencoder) -> None:
    """Starts as a lossy but sensible codec: latents are the 8 x 8 thumbnail, the decoder a smooth enlargement.

    From a random start the network stays at a grey blur for minutes (13 dB after 400 steps); from here, it does not.
    The colour rides in channels 0 to 2 of every layer, all blocks begin as small perturbations of the identity.
    """

    def carry(layer: Conv2d, kernel: Tensor) -> None:
        nn.init.normal_(layer.weight, std=0.02)
        for channel in range(3):
            layer.weight[channel] *= 0.1
            layer.weight[channel, channel] = kernel
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)

    point = torch.zeros(3, 3)
    point[1, 1] = 1.0
    box = torch.zeros(3, 3)
    box[1:, 1:] = 0.25  # stride 2 with one pixel of padding on the left: the 2 x 2 mean
    tent = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
    for block in (m for m in autoencoder.modules() if isinstance(m, Block)):
        nn.init.zeros_(block.conv[4].bias)
        block.conv[4].weight.mul_(0.1)
        block.conv[4].weight[:3].mul_(0.1)
    convs = {
        half: [m for m in net if isinstance(m, Conv2d)]
        for half, net in (("encoder", autoencoder.taesd_encoder), ("decoder", autoencoder.taesd_decoder))
    }
    for layer in convs["encoder"]:
        carry(layer, box if layer.stride == (2, 2) else point)
    for layer in convs["decoder"]:
        carry(layer, point if layer.bias is not None else tent)
