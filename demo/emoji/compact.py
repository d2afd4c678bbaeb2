"""The compact model files that ship: the narrow networks in fp16, and the token rows that occur, in 8 bits.

`pack` writes the model from a training run; `load_compact` gives the three networks back. The flow model's file has a
transformer and an autoencoder, and reads the text encoder of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from autoencoder import SD3, SD15, Autoencoder
from common import WEIGHTS, save_tensors
from safetensors.torch import load_file
from text_encoder import TOKENS, WIDTH, TextEncoder
from torch import Tensor, nn
from unet import UNet

MODEL_FILE, FLOW_FILE = WEIGHTS / "model.safetensors", WEIGHTS / "flow.safetensors"
KEEP_FLOAT32 = ("vae_scale", "vae_shift")


@dataclass
class Model:
    unet: UNet
    text_encoder: TextEncoder
    autoencoder: Autoencoder


@dataclass
class FlowModel:
    transformer: dict[str, Tensor]  # parameters, by ComfyUI's names
    text_encoder: TextEncoder
    autoencoder: Autoencoder


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (n, width) as int8 with one fp16 scale each (n,)."""
    scale = (rows.abs().amax(1) / 127).clamp(min=1e-8).half()
    return (rows / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def pack(model: Model, tokens: Tensor, metadata: dict[str, str], path: Path = MODEL_FILE) -> None:
    """Writes the model with the embedding rows of `tokens` (ids, sorted); all other rows are left out (zero)."""
    out = in_half({name: part.state_dict() for name, part in vars(model).items()})
    rows, scale = quantize_rows(model.text_encoder.token_embedding[tokens].float())
    out |= {"tokens.ids": tokens.to(torch.int32), "tokens.rows": rows, "tokens.scale": scale}
    save_tensors(out, path, metadata)


def pack_flow(model: FlowModel, metadata: dict[str, str], path: Path = FLOW_FILE) -> None:
    """Writes the flow model without its text encoder."""
    parts = {"transformer": model.transformer, "autoencoder": model.autoencoder.state_dict()}
    save_tensors(in_half(parts), path, metadata)


def in_half(parts: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of these parts in fp16, without the token table."""
    return {
        f"{part}.{name}": value if name in KEEP_FLOAT32 else value.half()
        for part, tensors in parts.items()
        for name, value in tensors.items()
        if name != "token_embedding"
    }


def load_compact(path: Path = MODEL_FILE) -> Model:
    """The three networks in float32, ready to run."""
    tensors = load_file(path)
    table = torch.zeros(TOKENS, WIDTH)
    rows = tensors["tokens.rows"].float() * tensors["tokens.scale"].float()[:, None]
    table[tensors["tokens.ids"].long()] = rows.half().float()  # what an fp16 checkpoint can hold
    tensors["text_encoder.token_embedding"] = table
    parts = {"unet": UNet(), "text_encoder": TextEncoder(table), "autoencoder": Autoencoder(SD15)}
    return Model(**{part: filled(module, part, tensors) for part, module in parts.items()})  # type: ignore[arg-type]


def load_flow(path: Path = FLOW_FILE) -> FlowModel:
    """The flow model's networks in float32, ready to run."""
    tensors = load_file(path)
    autoencoder = filled(Autoencoder(SD3), "autoencoder", tensors)
    return FlowModel(part_of(tensors, "transformer"), load_compact().text_encoder, autoencoder)  # type: ignore[arg-type]


def part_of(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part in float32."""
    prefix = part + "."
    return {name.removeprefix(prefix): t.float() for name, t in tensors.items() if name.startswith(prefix)}


def filled(module: nn.Module, part: str, tensors: dict[str, Tensor]) -> nn.Module:
    """The module with its part of the tensors."""
    module.load_state_dict(part_of(tensors, part))
    return module.to(memory_format=torch.channels_last).eval().requires_grad_(False)
