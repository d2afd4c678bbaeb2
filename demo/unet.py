"""The demo model's UNet: SD1.5's architecture without down-sampling, with WIDTH of its 320 channels.

The narrow network trains several times faster than the stock one and *is* the stock one: padded with zeros
(`build_checkpoint.py`) every layer computes the same numbers. Three things make that exact: normalisation groups
are of the stock network's size, attention heads have its 40 channels, and layer norms divide by 320 although they
see only WIDTH channels, as they do when the others are zero. Parameters have ComfyUI's (and CompVis') names.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Conv2d, GroupNorm

WIDTH = 80  # of SD1.5's 320 channels
FULL_WIDTH = 320
GROUPS = WIDTH * 32 // FULL_WIDTH  # of SD1.5's 32 normalisation groups, as many as WIDTH channels fill
HEAD = 40  # channels of an attention head
CONTEXT = 768


class Linear(nn.Linear):
    """Multiplies in bfloat16 while it trains on a CPU (twice as fast; convolutions would be slower)."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.device.type == "cpu":
            bias = None if self.bias is None else self.bias.bfloat16()
            return F.linear(x.bfloat16(), self.weight.bfloat16(), bias).float()
        return F.linear(x, self.weight, self.bias)


class FullWidthLayerNorm(nn.Module):
    """Layer norm over 320 channels of which all but the given ones are zero."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:  # (n, tokens, width)
        mean = x.sum(-1, keepdim=True) / FULL_WIDTH
        variance = x.square().sum(-1, keepdim=True) / FULL_WIDTH - mean.square()
        return (x - mean) * torch.rsqrt(variance + 1e-5) * self.weight + self.bias


class Attention(nn.Module):
    def __init__(self, width: int, context: int):
        super().__init__()
        self.to_q = Linear(width, width, bias=False)
        self.to_k = Linear(context, width, bias=False)
        self.to_v = Linear(context, width, bias=False)
        self.to_out = nn.Sequential(Linear(width, width), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        shared = len(x) // len(context)  # pictures per text, so that training computes their keys and values once
        k, v = (y.repeat(shared, 1, 1) for y in (self.to_k(context), self.to_v(context)))
        q, k, v = (y.unflatten(-1, (-1, HEAD)).transpose(1, 2) for y in (self.to_q(x), k, v))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj = Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, -1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(width), nn.Dropout(0.0), Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.attn1 = Attention(width, width)
        self.attn2 = Attention(width, CONTEXT)
        self.ff = FeedForward(width)
        self.norm1, self.norm2, self.norm3 = (FullWidthLayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = GroupNorm(GROUPS, width, eps=1e-6)
        self.proj_in = Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width)])
        self.proj_out = Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        y = self.proj_in(self.norm(x))
        y = self.transformer_blocks[0](y.flatten(2).transpose(1, 2), context)
        return x + self.proj_out(y.transpose(1, 2).unflatten(2, x.shape[2:]))


class ResBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, embedding: int):
        super().__init__()
        norm_in, norm_out = GroupNorm(GROUPS, n_in), GroupNorm(GROUPS, n_out)
        self.in_layers = nn.Sequential(norm_in, nn.SiLU(), Conv2d(n_in, n_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), Linear(embedding, n_out))
        self.out_layers = nn.Sequential(norm_out, nn.SiLU(), nn.Dropout(0.0), Conv2d(n_out, n_out, 3, padding=1))
        self.skip_connection = Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(y)


def timestep_embedding(t: Tensor) -> Tensor:  # (n,)
    """Sinusoidal embedding (n, 320), cosines first, as in SD1.5."""
    half = FULL_WIDTH // 2
    angles = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
    return torch.cat([angles.cos(), angles.sin()], -1)


class UNet(nn.Module):
    """Predicts the noise in latents (n, 4, 8, 8) at timesteps (n,), given text embeddings (n or n / k, 77, 768)."""

    def __init__(self) -> None:
        super().__init__()
        width, embedding = WIDTH, 4 * WIDTH
        self.time_embed = nn.Sequential(Linear(FULL_WIDTH, embedding), nn.SiLU(), Linear(embedding, embedding))

        def stage(n_in: int) -> nn.ModuleList:
            return nn.ModuleList([ResBlock(n_in, width, embedding), SpatialTransformer(width)])

        self.input_blocks = nn.ModuleList([nn.ModuleList([Conv2d(4, width, 3, padding=1)]), stage(width)])
        self.middle_block = nn.ModuleList([*stage(width), ResBlock(width, width, embedding)])
        self.output_blocks = nn.ModuleList([stage(2 * width), stage(2 * width)])
        self.out = nn.Sequential(GroupNorm(GROUPS, width), nn.SiLU(), Conv2d(width, 4, 3, padding=1))

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **_) -> Tensor:
        """`**_` takes what ComfyUI hands every UNet (control, transformer_options) and this one has no use for."""
        embedding = self.time_embed(timestep_embedding(timesteps).to(x.dtype))
        x = self.input_blocks[0][0](x)
        skips = [x]
        resblock, transformer = self.input_blocks[1]
        x = transformer(resblock(x, embedding), context)
        skips.append(x)
        resblock, transformer, last = self.middle_block
        x = last(transformer(resblock(x, embedding), context), embedding)
        for resblock, transformer in self.output_blocks:
            x = transformer(resblock(torch.cat([x, skips.pop()], 1), embedding), context)
        return self.out(x)


@torch.no_grad()
def initialise(unet: UNet) -> None:
    """Residual branches and the output start at zero, as in the original implementation."""
    for module in unet.modules():
        if isinstance(module, ResBlock):
            nn.init.zeros_(module.out_layers[3].weight)
        if isinstance(module, SpatialTransformer):
            nn.init.zeros_(module.proj_out.weight)
    nn.init.zeros_(unet.out[2].weight)
