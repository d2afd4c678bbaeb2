"""A ControlNet for the demo model: it draws inside an outline. In SD1.5's layout, with the UNet's narrow channels.

The UNet's first half sees the outline beside the latents once more and adds to the UNet's skip connections and to its
middle through convolutions that start at zero (arXiv 2302.05543). Parameters have ComfyUI's names. The half is the
UNet's own and stays as it is: only what is around it (`OWN`) is trained, and ships.
"""

from __future__ import annotations

from common import WEIGHTS
from compact import load_compact
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import Conv2d
from unet import HIGH, LOW, UNet, run

CONTROLNET_FILE = WEIGHTS / "controlnet.safetensors"
HINT_CHANNELS = (3, 16, 16, 32, 32, 96, 96, 256, LOW[0])
HINT_STRIDES = (1, 1, 2, 1, 2, 1, 2, 1)  # 64 pixels become 8 latent cells
HINT_OUT = "input_hint_block.14"  # its last layer
OWN = ("input_hint_block", "zero_convs", "middle_block_out")


class ControlNet(nn.Module):
    """What is added to the UNet, for outlines (n, 3, 64, 64) in [0, 1], white on black."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.time_embed, self.input_blocks, self.middle_block = unet.time_embed, unet.input_blocks, unet.middle_block
        self.embed_time = unet.embed_time
        layers: list[nn.Module] = []
        for n_in, n_out, stride in zip(HINT_CHANNELS[:-1], HINT_CHANNELS[1:], HINT_STRIDES, strict=True):
            layers += [Conv2d(n_in, n_out, 3, padding=1, stride=stride), nn.SiLU()]
        self.input_hint_block = nn.Sequential(*layers[:-1])
        widths = (LOW[0], LOW[0], LOW[0], HIGH[0])
        self.zero_convs = nn.ModuleList([nn.ModuleList([Conv2d(width, width, 1)]) for width in widths])
        self.middle_block_out = nn.ModuleList([Conv2d(HIGH[0], HIGH[0], 1)])
        for conv in (*(block[0] for block in self.zero_convs), self.middle_block_out[0]):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor, hint: Tensor, timesteps: Tensor, context: Tensor) -> list[Tensor]:
        """What is added to the UNet's four skip connections and to its middle."""
        time = self.embed_time(timesteps)
        x = self.input_blocks[0][0](x) + self.input_hint_block(hint)
        added = [self.zero_convs[0][0](x)]
        for block, conv in zip(self.input_blocks[1:], self.zero_convs[1:], strict=True):
            x = run(block, x, time, context)
            added.append(conv[0](x))
        return [*added, self.middle_block_out[0](run(self.middle_block, x, time, context))]

    def own(self) -> dict[str, Tensor]:
        """The weights that the UNet does not have."""
        return {name: value for name, value in self.state_dict().items() if name.startswith(OWN)}


def load_controlnet() -> ControlNet:
    """What has shipped, around the shipped UNet's first half."""
    controlnet = ControlNet(load_compact().unet)
    own = {name: value.float() for name, value in load_file(CONTROLNET_FILE).items()}
    controlnet.load_state_dict(controlnet.state_dict() | own)
    return controlnet.eval().requires_grad_(False)
