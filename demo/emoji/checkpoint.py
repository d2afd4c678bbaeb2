"""The compact models as checkpoints that ComfyUI's stock Load Checkpoint reads.

    python demo/emoji/checkpoint.py --output FILE                      the model, as Stable Diffusion 1.5
    python demo/emoji/checkpoint.py --output FILE --part flow          the flow model, as Stable Diffusion 3
    python demo/emoji/checkpoint.py --output FILE --part controlnet    the ControlNet, for Load ControlNet Model

Every tensor is filled up with zeros to the full layout. The norms of the narrow networks count those zeros, so that
both compute the same (`tests/test_demo.py`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import autoencoder as ae
import text_encoder as te
import torch
from common import metadata_of, save_tensors
from compact import FLOW_FILE, MODEL_FILE, FlowModel, Model, load_compact, load_flow
from controlnet import HINT_OUT, load_controlnet
from torch import Tensor
from unet import CONTEXT, HIGH, LOW, TIME, Span, UNet

FULL_AE = 64
Spans = tuple[Span, ...]


def widen(tensor: Tensor, *dims: Spans | None) -> Tensor:
    """Pads each dimension with zeros: after each of its parts of `used` rows up to `full` rows. None: leave it."""
    for dim, spans in enumerate(dims[: tensor.ndim]):
        if spans is None:
            continue
        parts = []
        for (used, full), part in zip(spans, tensor.split([used for used, _ in spans], dim), strict=True):
            shape = list(part.shape)
            shape[dim] = full - used
            parts.append(torch.cat([part, part.new_zeros(shape)], dim))
        tensor = torch.cat(parts, dim)
    return tensor


def times(span: Span, factor: int) -> Span:
    return span[0] * factor, span[1] * factor


# where a stage of the UNet lies, and what its first ResBlock reads when that is not the stage's own level
HIGH_STAGES = {"input_blocks.3", "middle_block", "output_blocks.0", "output_blocks.1", "zero_convs.3"}
READS = {
    "input_blocks.3": (LOW,),
    "output_blocks.0": (HIGH, HIGH),
    "output_blocks.1": (HIGH, LOW),
    "output_blocks.2": (HIGH, LOW),
    "output_blocks.3": (LOW, LOW),
}


def unet_spans(name: str) -> tuple[Spans | None, Spans | None]:
    """The spans of a UNet's or ControlNet's parameter's first two dimensions: outputs and inputs."""
    time, context = (TIME, 4 * LOW[1]), (CONTEXT, te.FULL_WIDTH)
    if name.startswith("time_embed"):
        return (time,), None if name == "time_embed.0.weight" else (time,)
    if name.startswith("input_hint_block"):  # of SD1.5's own width but for what it gives out
        return ((LOW,) if name.startswith(HINT_OUT) else None), None
    if name == "input_blocks.0.0.weight":
        return (LOW,), None
    if name.startswith("out.2"):
        return None, (LOW,)
    stage = "middle_block" if name.startswith("middle_block") else ".".join(name.split(".")[:2])
    here = HIGH if stage in HIGH_STAGES else LOW
    first = name.removeprefix(stage).startswith(".0.")
    reads = READS.get(stage, (here,)) if first else (here,)
    if "in_layers.0" in name:  # a norm of what is read
        return reads, None
    if "in_layers.2" in name or "skip_connection" in name:
        return (here,), reads
    if "emb_layers" in name:
        return (here,), (time,)
    if "attn2.to_k" in name or "attn2.to_v" in name:
        return (here,), (context,)
    if "ff.net.0.proj" in name:  # value and gate
        return (times(here, 4), times(here, 4)), (here,)
    if "ff.net.2" in name:
        return (here,), (times(here, 4),)
    return (here,), (here,)


def read_wide_embeddings(unet: UNet) -> UNet:
    """Makes the narrow UNet read embeddings of full width, whose unused channels do nothing. Returns it."""
    for name, module in unet.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            module.weight = torch.nn.Parameter(widen(module.weight.detach(), None, ((CONTEXT, te.FULL_WIDTH),)))
            module.in_features = te.FULL_WIDTH
    return unet


def expand_unet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: widen(value, *unet_spans(name)) for name, value in state.items()}


def expand_controlnet() -> dict[str, Tensor]:
    """The ControlNet in fp16, with the UNet's first half put in."""
    return {name: value.half() for name, value in expand_unet(load_controlnet().state_dict()).items()}


def expand_text_encoder(encoder: te.TextEncoder) -> dict[str, Tensor]:
    """CLIP-L's names; the layers that are not there get zero weights, which add exactly zero."""
    width, mlp = ((te.WIDTH, te.FULL_WIDTH),), ((te.MLP, te.FULL_MLP),)
    table = encoder.token_embedding.clone()
    table[te.START], table[te.END] = encoder.special
    out = {
        "embeddings.token_embedding.weight": widen(table, None, width),
        "embeddings.position_embedding.weight": widen(encoder.position_embedding, None, width),
    }
    layers = [dict(layer.named_parameters()) for layer in encoder.layers]
    for index in range(te.FULL_LAYERS):
        for name, value in layers[min(index, te.LAYERS - 1)].items():
            value = value if index < te.LAYERS else torch.zeros_like(value)
            block = {"f": "mlp.", "l": ""}.get(name[0], "self_attn.")
            dims = (mlp if name.startswith("fc1") else width, mlp if name.startswith("fc2") else width)
            out[f"encoder.layers.{index}.{block}{name}"] = widen(value, *dims)
    for name, value in encoder.final_layer_norm.named_parameters():
        out[f"final_layer_norm.{name}"] = widen(value, width)
    return {f"text_model.{name}": value for name, value in out.items()}


def expand_autoencoder(model: ae.Autoencoder) -> dict[str, Tensor]:
    """TAESD's names. The encoder blocks that are not there become identities.

    TAESD's blocks end in a ReLU, so the identity needs inputs that are not negative: before the first block, which the
    narrow network lacks, x travels as relu(x) and relu(-x) in two halves of the channels.
    """
    state, width = model.state_dict(), ((ae.WIDTH, FULL_AE),)
    out: dict[str, Tensor] = {}

    def copy(target: str, source: str, outputs: Spans | None = width, inputs: Spans | None = width) -> None:
        for kind in ("weight", "bias"):
            if f"{source}.{kind}" in state:
                out[f"{target}.{kind}"] = widen(state[f"{source}.{kind}"], outputs, inputs)

    def block(target: str, source: str | None) -> None:
        for i in (0, 2, 4):
            if source is not None:
                copy(f"{target}.conv.{i}", f"{source}.conv.{i}")
            else:
                out[f"{target}.conv.{i}.weight"] = torch.zeros(FULL_AE, FULL_AE, 3, 3)
                out[f"{target}.conv.{i}.bias"] = torch.zeros(FULL_AE)

    encoder = "taesd_encoder."
    for kind in ("weight", "bias"):
        value = state[f"{encoder}0.{kind}"]
        out[f"{encoder}0.{kind}"] = torch.cat([value, -value])
    block(f"{encoder}1", None)
    down = state[f"{encoder}1.weight"]
    out[f"{encoder}2.weight"] = widen(torch.cat([down, -down], 1), width)
    source, target = 2, 3
    for blocks in (1, 2, 3):
        for i in range(3):
            block(f"{encoder}{target}", f"{encoder}{source}" if i < blocks else None)
            source, target = source + (i < blocks), target + 1
        copy(f"{encoder}{target}", f"{encoder}{source}", width if blocks < 3 else None)
        source, target = source + 1, target + 1
    last = len(model.taesd_decoder) - 1
    for index, layer in enumerate(model.taesd_decoder):
        name = f"taesd_decoder.{index}"
        if isinstance(layer, ae.Block):
            block(name, name)
        elif isinstance(layer, torch.nn.Conv2d):
            copy(name, name, None if index == last else width, None if index == 1 else width)
    return out | {"vae_scale": state["vae_scale"], "vae_shift": state["vae_shift"]}


@torch.no_grad()
def expand(model: Model) -> dict[str, Tensor]:
    """The full checkpoint, fp16: 466 MB, nearly all of it zeros."""
    parts = {
        "model.diffusion_model.": expand_unet(model.unet.state_dict()),
        "cond_stage_model.transformer.": expand_text_encoder(model.text_encoder),
        "first_stage_model.": expand_autoencoder(model.autoencoder),
    }
    return joined(parts)


@torch.no_grad()
def expand_flow(model: FlowModel) -> dict[str, Tensor]:
    """Stable Diffusion 3's layout with CLIP-L alone, fp16: 270 MB."""
    network = dict(model.transformer)
    for name, full in (("context_embedder.weight", 4096), ("y_embedder.mlp.0.weight", 2048)):
        network[name] = widen(network[name], None, ((CONTEXT, full),))
    return joined(
        {
            "model.diffusion_model.": network,
            "text_encoders.clip_l.transformer.": expand_text_encoder(model.text_encoder),
            "first_stage_model.": expand_autoencoder(model.autoencoder),
        }
    )


def joined(parts: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        prefix + name: value.half() if value.ndim else value.float()
        for prefix, part in parts.items()
        for name, value in part.items()
    }


PARTS = {
    "model": (lambda: expand(load_compact()), MODEL_FILE),
    "flow": (lambda: expand_flow(load_flow()), FLOW_FILE),
    "controlnet": (expand_controlnet, MODEL_FILE),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--part", choices=PARTS, default="model")
    options = parser.parse_args()
    expanded, file = PARTS[options.part]
    save_tensors(expanded(), options.output, {"format": "pt"} | metadata_of(file))
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
