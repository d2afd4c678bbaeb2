"""The compact model file that ships: the narrow networks in fp16, and the token rows that occur, in 8 bits.

`pack` writes it from a training run; `load_compact` gives the three networks back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from autoencoder import Autoencoder
from common import WEIGHTS, save_tensors
from safetensors.torch import load_file
from text_encoder import TOKENS, WIDTH, TextEncoder
from torch import Tensor, nn
from unet import UNet

MODEL_FILE = WEIGHTS / "model.safetensors"
KEEP_FLOAT32 = ("vae_scale", "vae_shift")


@dataclass
class Model:
    unet: UNet
    text_encoder: TextEncoder
    autoencoder: Autoencoder


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (n, width) as int8 with one fp16 scale each (n,)."""
    scale = (rows.abs().amax(1) / 127).clamp(min=1e-8).half()
    return (rows / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def pack(model: Model, tokens: Tensor, metadata: dict[str, str], path: Path = MODEL_FILE) -> None:
    """Writes the model with the embedding rows of `tokens` (ids, sorted); all other rows are left out (zero)."""
    out: dict[str, Tensor] = {}
    for part in ("unet", "text_encoder", "autoencoder"):
        for name, value in getattr(model, part).state_dict().items():
            if name != "token_embedding":
                out[f"{part}.{name}"] = value if name in KEEP_FLOAT32 else value.half()
    rows, scale = quantize_rows(model.text_encoder.token_embedding[tokens].float())
    out |= {"tokens.ids": tokens.to(torch.int32), "tokens.rows": rows, "tokens.scale": scale}
    save_tensors(out, path, metadata)


def load_compact(path: Path = MODEL_FILE) -> Model:
    """The three networks in float32, ready to run."""
    tensors = load_file(path)
    table = torch.zeros(TOKENS, WIDTH)
    rows = tensors["tokens.rows"].float() * tensors["tokens.scale"].float()[:, None]
    table[tensors["tokens.ids"].long()] = rows.half().float()  # what an fp16 checkpoint can hold
    parts: dict[str, nn.Module] = {"unet": UNet(), "text_encoder": TextEncoder(table), "autoencoder": Autoencoder()}
    for part, module in parts.items():
        prefix = part + "."
        state = {name.removeprefix(prefix): t.float() for name, t in tensors.items() if name.startswith(prefix)}
        if part == "text_encoder":
            state["token_embedding"] = table
        module.load_state_dict(state)
        module.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return Model(**parts)  # type: ignore[arg-type]
