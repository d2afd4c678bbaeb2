"""Expands the compact demo model into a checkpoint of SD1.5's layout: `python demo/build_checkpoint.py --output FILE`.

ComfyUI's stock Load Checkpoint loads the result with no custom code, and it computes what the compact networks
compute: the channels and layers that are added hold zeros and contribute exactly nothing. With --controlnet it is the
demo model's ControlNet that is expanded, for Load ControlNet Model.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

COMPACT = Path(__file__).parent / "weights" / "model.safetensors"
CONTROLNET = Path(__file__).parent / "weights" / "controlnet.safetensors"
VOCABULARY = 49408
CLIP_LAYERS = 12
CLIP_MLP = 3072
UNET_WIDTH = 320
AUTOENCODER_WIDTH = 64


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def widen(tensor: Tensor, narrow: int, wide: int, dims: range) -> Tensor:
    """Zero-pads every block of `narrow` channels to `wide` ones, along those dims that are made of such blocks.

    Blockwise, so that what is concatenated or chunked (skip connections, GEGLU's halves) stays aligned.
    """
    for dim in dims:
        if tensor.shape[dim] % narrow == 0:
            blocks = tensor.unflatten(dim, (-1, narrow))
            shape = list(blocks.shape)
            shape[dim + 1] = wide - narrow
            tensor = torch.cat([blocks, blocks.new_zeros(shape)], dim + 1).flatten(dim, dim + 1)
    return tensor


def expand_unet(compact: dict[str, Tensor]) -> dict[str, Tensor]:
    """The UNet, or a ControlNet, whose layers are the UNet's but for some of fixed width that see the outline."""
    narrow = compact["input_blocks.0.0.weight"].shape[0]
    # the sinusoidal embedding that time_embed.0 reads has SD1.5's 320 channels already
    dims = {name: range(1) if name == "time_embed.0.weight" else range(t.ndim) for name, t in compact.items()}
    return {name: widen(tensor, narrow, UNET_WIDTH, dims[name]) for name, tensor in compact.items()}


def expand_autoencoder(compact: dict[str, Tensor]) -> dict[str, Tensor]:
    narrow = compact["taesd_encoder.0.weight"].shape[0]
    return {name: widen(tensor, narrow, AUTOENCODER_WIDTH, range(tensor.ndim)) for name, tensor in compact.items()}


def expand_text_encoder(compact: dict[str, Tensor]) -> dict[str, Tensor]:
    """CLIP-L with 12 layers; in the added ones both residual branches end in zeros, so that they pass x on as it is."""
    full = dict(compact)
    embedding = "text_model.embeddings.token_embedding.weight"
    rows = full.pop("token_ids")
    full[embedding] = compact[embedding].new_zeros(VOCABULARY, compact[embedding].shape[1])
    full[embedding][rows] = compact[embedding]
    first = part(compact, "text_model.encoder.layers.0.")
    given = sum(name.endswith(".mlp.fc1.weight") for name in compact)
    for layer in range(CLIP_LAYERS):
        prefix = f"text_model.encoder.layers.{layer}."
        if layer >= given:
            full |= {prefix + name: torch.zeros_like(tensor) for name, tensor in first.items()}
            full |= {prefix + f"layer_norm{i}.weight": torch.ones_like(first["layer_norm1.weight"]) for i in (1, 2)}
        narrow = first["mlp.fc1.bias"].shape[0]
        full[prefix + "mlp.fc1.weight"] = widen(full[prefix + "mlp.fc1.weight"], narrow, CLIP_MLP, range(1))
        full[prefix + "mlp.fc1.bias"] = widen(full[prefix + "mlp.fc1.bias"], narrow, CLIP_MLP, range(1))
        full[prefix + "mlp.fc2.weight"] = widen(full[prefix + "mlp.fc2.weight"], narrow, CLIP_MLP, range(1, 2))
    return full


def expand(compact: dict[str, Tensor]) -> dict[str, Tensor]:
    """The compact file's tensors as a checkpoint of SD1.5's layout, in the same precision."""
    unet = expand_unet(part(compact, "unet."))
    text = expand_text_encoder(part(compact, "text_encoder."))
    autoencoder = expand_autoencoder(part(compact, "autoencoder."))
    return (
        {f"model.diffusion_model.{name}": tensor for name, tensor in unet.items()}
        | {f"cond_stage_model.transformer.{name}": tensor for name, tensor in text.items()}
        | {f"first_stage_model.{name}": tensor for name, tensor in autoencoder.items()}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--controlnet", action="store_true")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    beside = options.output.with_suffix(".part")
    wide = expand_unet(load_file(CONTROLNET)) if options.controlnet else expand(load_file(COMPACT))
    save_file({name: tensor.contiguous() for name, tensor in wide.items()}, beside, {"format": "pt"})
    os.replace(beside, options.output)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
