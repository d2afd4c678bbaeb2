"""The demo model's text encoder: CLIP-L's architecture, tokenizer and width, with LAYERS of its 12 layers.

Two layers are enough for this language, and ten more that add exactly zero make it a stock CLIP-L
(`build_checkpoint.py`). The training is brief on purpose: see `train_text_encoder.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LAYERS = 2
MLP_WIDTH = 1024  # of CLIP-L's 3072
WIDTH = 768
LENGTH = 77
EOT = 49407  # also the padding, as in CLIP-L


def comfyui_path() -> Path:
    """Where `dev.py` has put ComfyUI, or the one that COMFYUI_PATH names."""
    return Path(os.environ.get("COMFYUI_PATH") or Path(__file__).parents[1] / ".host" / "ComfyUI")


def tokenizer() -> CLIPTokenizer:
    """CLIP's own byte-pair tokenizer, from the files that ComfyUI carries."""
    return CLIPTokenizer.from_pretrained(comfyui_path() / "comfy" / "sd1_tokenizer")


def tokenize(texts: list[str]) -> Tensor:
    """Token ids (n, 77), padded with the end-of-text token as CLIP-L does."""
    return tokenizer()(texts, padding="max_length", max_length=LENGTH, return_tensors="pt")["input_ids"]


def text_encoder() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=WIDTH,
        intermediate_size=MLP_WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=12,
        max_position_embeddings=LENGTH,
        hidden_act="quick_gelu",
        attn_implementation="sdpa",
    )
    return CLIPTextModel(config)


@torch.no_grad()
def encode(model: CLIPTextModel, ids: Tensor, batch: int = 256) -> Tensor:  # (n, 77)
    """What the UNet reads: (n, 77, 768) float32, after the final layer norm."""
    rows = [model(input_ids=part).last_hidden_state for part in ids.split(batch)]
    return torch.cat(rows)
