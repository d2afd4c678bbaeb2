"""The text encoder: CLIP-L's layout and tokenizer, with WIDTH of its 768 channels and LAYERS of its 12 layers.

Zero-filled channels and layers make it a stock CLIP-L exactly (`checkpoint.py`). Parameters are those of a narrow CLIP;
the token table is not trained, apart from the rows of the start and end tokens.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import torch
from common import RUNS
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

WIDTH, FULL_WIDTH = 384, 768
LAYERS, FULL_LAYERS = 4, 12
MLP, FULL_MLP = 1536, 3072
HEAD = 64  # channels of one attention head
LENGTH = 77
TOKENS = 49408
START, END = 49406, 49407  # the end token is also the padding
WEIGHTS_FILE = RUNS / "text_encoder.safetensors"


class LayerNorm(nn.Module):
    """Layer norm over FULL_WIDTH channels of which all but WIDTH are zero."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.bias = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        mean = x.sum(-1, keepdim=True) / FULL_WIDTH
        variance = x.square().sum(-1, keepdim=True) / FULL_WIDTH - mean.square()
        return (x - mean) * torch.rsqrt(variance + 1e-5) * self.weight + self.bias


class Layer(nn.Module):
    """One pre-norm transformer layer with causal attention and CLIP's quick GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(WIDTH, MLP), nn.Linear(MLP, WIDTH)
        self.layer_norm1, self.layer_norm2 = LayerNorm(), LayerNorm()
        for layer in (self.out_proj, self.fc2):
            layer.weight.data.mul_(0.3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.layer_norm1(x)
        q, k, v = (
            project(h).unflatten(-1, (-1, HEAD)).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        # by hand: in bf16 on CPU, scaled_dot_product_attention is several times slower
        attention = ((q * HEAD**-0.5) @ k.transpose(-1, -2) + mask).softmax(-1).to(v.dtype)
        x = x + self.out_proj((attention @ v).transpose(1, 2).flatten(2))
        h = self.fc1(self.layer_norm2(x))
        return x + self.fc2(h * torch.sigmoid(1.702 * h))


class TextEncoder(nn.Module):
    """Token ids (n, up to 77) to embeddings (n, same, WIDTH), after the final layer norm.

    Stable Diffusion 3 reads them before that norm (`hidden`), and the normed one at the first END beside them.
    """

    def __init__(self, table: Tensor | None = None):
        super().__init__()
        table = torch.zeros(TOKENS, WIDTH) if table is None else table
        self.token_embedding = nn.Parameter(table, requires_grad=False)
        self.special = nn.Parameter(torch.randn(2, WIDTH) * 0.05)  # the rows of START and END
        self.position_embedding = nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.01)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.final_layer_norm = LayerNorm()

    def forward(self, ids: Tensor) -> Tensor:
        return self.final_layer_norm(self.hidden(ids))

    def hidden(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        x = self.token_embedding[ids]
        x = torch.where((ids == START)[..., None], self.special[0], x)
        x = torch.where((ids == END)[..., None], self.special[1], x)
        x = x + self.position_embedding[:length]
        mask = torch.full((length, length), -1e9, device=x.device).triu(1)
        for layer in self.layers:
            x = layer(x, mask)
        return x


def comfyui_path() -> Path:
    """Where ComfyUI is: COMFYUI_PATH, or where dev.py puts it."""
    return Path(os.environ.get("COMFYUI_PATH") or Path(__file__).parents[2] / ".host" / "ComfyUI")


@cache
def tokenizer() -> CLIPTokenizer:
    """CLIP's own byte-pair tokenizer, from the files that ComfyUI carries."""
    return CLIPTokenizer.from_pretrained(comfyui_path() / "comfy" / "sd1_tokenizer")


def token_rows(texts: list[str]) -> list[list[int]]:
    """Token ids of each text with START and one END, at most LENGTH."""
    return tokenizer()(texts, truncation=True, max_length=LENGTH)["input_ids"]


def pad(rows: list[list[int]], length: int = LENGTH) -> Tensor:
    """Ids (n, length), filled up with END as CLIP-L does."""
    return torch.tensor([row + [END] * (length - len(row)) for row in rows])


def first_end(ids: Tensor) -> Tensor:
    """Position of the first END of each row (n,)."""
    return (ids == END).int().argmax(1)


@torch.no_grad()
def encode(encoder: TextEncoder, texts: list[str], batch: int = 128) -> Tensor:
    """What the UNet reads: (n, 77, WIDTH), bfloat16."""
    rows = token_rows(texts)
    out = torch.zeros(len(rows), LENGTH, WIDTH, dtype=torch.bfloat16)
    for start in range(0, len(rows), batch):
        with torch.autocast("cpu", torch.bfloat16):
            out[start : start + batch] = encoder(pad(rows[start : start + batch])).bfloat16()
    return out


def load_text_encoder() -> TextEncoder:
    """The trained text encoder of this run."""
    encoder = TextEncoder()
    encoder.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS_FILE).items()})
    return encoder.eval().requires_grad_(False)
