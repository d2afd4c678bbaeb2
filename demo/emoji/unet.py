"""The UNet: Stable Diffusion 1.5's layout with two levels (320, 640 channels), a quarter of its channels in use.

Parameters have SD1.5's names. The norms count the unused channels as the zeros that they are in the full layout, so
that the narrow network, padded with zeros, is the full one (`checkpoint.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Conv2d, Linear, ModuleList, Sequential

LOW, HIGH = (80, 320), (160, 640)  # channels (used, of the full layout) of the two levels
CONTEXT = 384  # channels of an embedding, of 768
TIME = 320  # channels of the time embedding, of 1280
Span = tuple[int, int]


class GroupNorm(nn.Module):
    """32 groups over the full layout's channels; `spans` are the (used, full) channels of what was concatenated."""

    def __init__(self, *spans: Span, eps: float = 1e-5):
        super().__init__()
        positions, start = [], 0
        for used, full in spans:
            positions += range(start, start + used)
            start += full
        self.size, self.eps = start // 32, eps
        group = torch.tensor(positions) // self.size
        present, index = group.unique(return_inverse=True)
        self.groups = len(present)
        self.aligned = len(positions) == self.groups * self.size  # no group has an unused channel
        self.register_buffer("member", F.one_hot(index).float(), persistent=False)  # (channels, groups)
        self.weight = nn.Parameter(torch.ones(len(positions)))
        self.bias = nn.Parameter(torch.zeros(len(positions)))

    def forward(self, x: Tensor) -> Tensor:
        if self.aligned:
            return F.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        wide = x.float()
        count = self.size * x.shape[2] * x.shape[3]
        with torch.autocast("cpu", enabled=False):
            mean = wide.sum((2, 3)) @ self.member / count
            variance = wide.square().sum((2, 3)) @ self.member / count - mean.square()
            scale = torch.rsqrt(variance + self.eps) @ self.member.T * self.weight
            shift = self.bias - mean @ self.member.T * scale
        return (wide * scale[..., None, None] + shift[..., None, None]).to(x.dtype)


class LayerNorm(nn.Module):
    """Layer norm over the full layout's channels."""

    def __init__(self, span: Span):
        super().__init__()
        self.full = span[1]
        self.weight = nn.Parameter(torch.ones(span[0]))
        self.bias = nn.Parameter(torch.zeros(span[0]))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        mean = wide.sum(-1, keepdim=True) / self.full
        variance = wide.square().sum(-1, keepdim=True) / self.full - mean.square()
        return ((wide - mean) * torch.rsqrt(variance + 1e-5) * self.weight + self.bias).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, span: Span, context: int):
        super().__init__()
        used, full = span
        self.head = full // 8
        self.to_q = Linear(used, used, bias=False)
        self.to_k, self.to_v = Linear(context, used, bias=False), Linear(context, used, bias=False)
        self.to_out = Sequential(Linear(used, used), nn.Identity())  # SD1.5 has a dropout there

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (n, pixels, used), context (m, tokens, channels), n = r m: context i serves the rows i, i + m, i + 2m, ...

        The r rows that share a context are laid side by side as queries, so that its keys and values are made once.
        """
        m, pixels = len(context), x.shape[1]
        q = self.to_q(x).view(-1, m, pixels, x.shape[2] // self.head, self.head).permute(1, 3, 0, 2, 4).flatten(2, 3)
        k, v = (project(context).unflatten(-1, (-1, self.head)).transpose(1, 2) for project in (self.to_k, self.to_v))
        # by hand: in bf16 on CPU, scaled_dot_product_attention is several times slower
        weights = ((q * self.head**-0.5) @ k.transpose(-1, -2)).softmax(-1).to(v.dtype)
        y = (weights @ v).unflatten(2, (-1, pixels)).permute(2, 0, 3, 1, 4)
        return self.to_out(y.reshape(x.shape))


class GEGLU(nn.Module):
    def __init__(self, used: int):
        super().__init__()
        self.proj = Linear(used, 8 * used)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, used: int):
        super().__init__()
        self.net = Sequential(GEGLU(used), nn.Identity(), Linear(4 * used, used))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    def __init__(self, span: Span):
        super().__init__()
        self.attn1, self.attn2 = Attention(span, span[0]), Attention(span, CONTEXT)
        self.ff = FeedForward(span[0])
        self.norm1, self.norm2, self.norm3 = (LayerNorm(span) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, span: Span):
        super().__init__()
        self.norm = GroupNorm(span, eps=1e-6)
        self.proj_in = Conv2d(span[0], span[0], 1)
        self.transformer_blocks = ModuleList([TransformerBlock(span)])
        self.proj_out = Conv2d(span[0], span[0], 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        y = self.proj_in(self.norm(x))
        size = y.shape[2:]
        y = self.transformer_blocks[0](y.flatten(2).transpose(1, 2), context)
        return x + self.proj_out(y.transpose(1, 2).unflatten(2, size))


class ResBlock(nn.Module):
    def __init__(self, inputs: tuple[Span, ...], span: Span):
        super().__init__()
        count, used = sum(used for used, _ in inputs), span[0]
        self.in_layers = Sequential(GroupNorm(*inputs), nn.SiLU(), Conv2d(count, used, 3, padding=1))
        self.emb_layers = Sequential(nn.SiLU(), Linear(TIME, used))
        self.out_layers = Sequential(GroupNorm(span), nn.SiLU(), nn.Identity(), Conv2d(used, used, 3, padding=1))
        self.skip_connection = Conv2d(count, used, 1) if count != used else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Downsample(nn.Module):
    def __init__(self, used: int):
        super().__init__()
        self.op = Conv2d(used, used, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, used: int):
        super().__init__()
        self.conv = Conv2d(used, used, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


def run(layers: ModuleList, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
    """One stage of the UNet."""
    for layer in layers:
        if isinstance(layer, ResBlock):
            x = layer(x, time)
        elif isinstance(layer, SpatialTransformer):
            x = layer(x, context)
        else:
            x = layer(x)
    return x


class UNet(nn.Module):
    """Predicts the noise in latents (n, 4, 8, 8) at timesteps (n,) given embeddings (m, 77, CONTEXT), n = k m."""

    def __init__(self) -> None:
        super().__init__()
        low, high = LOW, HIGH
        self.time_embed = Sequential(Linear(320, TIME), nn.SiLU(), Linear(TIME, TIME))
        self.input_blocks = ModuleList(
            [
                ModuleList([Conv2d(4, low[0], 3, padding=1)]),
                ModuleList([ResBlock((low,), low), SpatialTransformer(low)]),
                ModuleList([Downsample(low[0])]),
                ModuleList([ResBlock((low,), high), SpatialTransformer(high)]),
            ]
        )
        self.middle_block = ModuleList([ResBlock((high,), high), SpatialTransformer(high), ResBlock((high,), high)])
        self.output_blocks = ModuleList(
            [
                ModuleList([ResBlock((high, high), high), SpatialTransformer(high)]),
                ModuleList([ResBlock((high, low), high), SpatialTransformer(high), Upsample(high[0])]),
                ModuleList([ResBlock((high, low), low), SpatialTransformer(low)]),
                ModuleList([ResBlock((low, low), low), SpatialTransformer(low)]),
            ]
        )
        self.out = Sequential(GroupNorm(low), nn.SiLU(), Conv2d(low[0], 4, 3, padding=1))
        for module in self.modules():
            if isinstance(module, ResBlock):
                nn.init.zeros_(module.out_layers[3].weight)
            if isinstance(module, SpatialTransformer):
                nn.init.zeros_(module.proj_out.weight)
        nn.init.zeros_(self.out[2].weight)
        frequencies = torch.exp(-math.log(10000) * torch.arange(160) / 160)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def embed_time(self, timesteps: Tensor) -> Tensor:
        """(n, TIME) for timesteps (n,)."""
        angle = timesteps[:, None].float() * self.frequencies
        return self.time_embed(torch.cat([angle.cos(), angle.sin()], -1))

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, added: Sequence[Tensor] = ()) -> Tensor:
        """added: what a ControlNet adds to each skip connection, and last to the middle."""
        time = self.embed_time(timesteps)
        skips = []
        for layers in self.input_blocks:
            x = run(layers, x, time, context)
            skips.append(x)
        x = run(self.middle_block, x, time, context)
        if added:
            skips = [skip + more for skip, more in zip(skips, added[:-1], strict=True)]
            x = x + added[-1]
        for layers in self.output_blocks:
            x = run(layers, torch.cat([x, skips.pop()], 1), time, context)
        return self.out(x)
