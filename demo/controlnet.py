"""A ControlNet for the demo model: it draws inside an outline. In SD1.5's layout, with WIDTH of its 320 channels.

A copy of the UNet's first half sees the outline beside the latents and adds to the UNet's skip connections and to
its middle through convolutions that start at zero (arXiv 2302.05543). Parameters have ComfyUI's names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import Conv2d
from unet import WIDTH, UNet, timestep_embedding

HINT_CHANNELS = (3, 16, 16, 32, 32, 96, 96, 256, WIDTH)
HINT_STRIDES = (1, 1, 2, 1, 2, 1, 2, 1)  # 64 pixels become 8 latent cells


class ControlNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        half = UNet()
        self.time_embed, self.input_blocks, self.middle_block = half.time_embed, half.input_blocks, half.middle_block
        layers = []
        for n_in, n_out, stride in zip(HINT_CHANNELS[:-1], HINT_CHANNELS[1:], HINT_STRIDES, strict=True):
            layers += [Conv2d(n_in, n_out, 3, padding=1, stride=stride), nn.SiLU()]
        self.input_hint_block = nn.Sequential(*layers[:-1])
        self.zero_convs = nn.ModuleList([nn.ModuleList([Conv2d(WIDTH, WIDTH, 1)]) for _ in self.input_blocks])
        self.middle_block_out = nn.ModuleList([Conv2d(WIDTH, WIDTH, 1)])
        for conv in (*(block[0] for block in self.zero_convs), self.middle_block_out[0], self.input_hint_block[-1]):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor, hint: Tensor, timesteps: Tensor, context: Tensor) -> list[Tensor]:
        """What is added to the UNet's two skip connections and to its middle, for hints (n, 3, 64, 64) in [0, 1]."""
        embedding = self.time_embed(timestep_embedding(timesteps).to(x.dtype))
        x = self.input_blocks[0][0](x) + self.input_hint_block(hint)
        added = [self.zero_convs[0][0](x)]
        resblock, transformer = self.input_blocks[1]
        x = transformer(resblock(x, embedding), context)
        added.append(self.zero_convs[1][0](x))
        resblock, transformer, last = self.middle_block
        x = last(transformer(resblock(x, embedding), context), embedding)
        return [*added, self.middle_block_out[0](x)]


def controlled(unet: UNet, added: list[Tensor], x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
    """The UNet's noise prediction with what a ControlNet adds."""
    embedding = unet.time_embed(timestep_embedding(timesteps).to(x.dtype))
    x = unet.input_blocks[0][0](x)
    skips = [x + added[0]]
    resblock, transformer = unet.input_blocks[1]
    x = transformer(resblock(x, embedding), context)
    skips.append(x + added[1])
    resblock, transformer, last = unet.middle_block
    x = last(transformer(resblock(x, embedding), context), embedding) + added[2]
    for resblock, transformer in unet.output_blocks:
        x = transformer(resblock(torch.cat([x, skips.pop()], 1), embedding), context)
    return unet.out(x)
