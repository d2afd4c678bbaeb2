"""The weights of a MODEL that read its text, as numbers: with its LoRAs, while ComfyUI may have them anywhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import comfy.lora
import comfy.model_base
import comfy.utils
import torch
from comfy.model_patcher import get_key_weight
from torch import Tensor

from ...trce_ops.closed_form.metric import gram
from ...trce_ops.delta.file import ErasedDelta
from .apply import apply_delta
from .readers import Stream, TextReaders

log = logging.getLogger(__name__)

WIDEST = 4096  # d up to which G is taken: inverting it takes d^3 steps, minutes on a CPU for the widest encoders


def effective_weight(model) -> Callable[[str], Tensor]:
    """Weights of MODEL with its patches, by name; where there is a patch in float32 on the CPU, else as they lie."""
    base = base_weights(model)

    def weight(key: str) -> Tensor:
        patches = model.patches.get(key)
        return comfy.lora.calculate_weight(patches, _float(base(key)), key) if patches else base(key)

    return weight


def _float(W: Tensor) -> Tensor:
    return W.to("cpu", torch.float32, copy=True)


@torch.no_grad()
def text_weights(model, readers: TextReaders) -> dict[str, dict[str, Tensor]]:
    """All of them by kind of text and module; float32, on the CPU."""
    weight = effective_weight(model)
    return {
        kind: {key.removesuffix(".weight"): _float(weight(key)) for key in stream.keys}
        for kind, stream in readers.streams.items()
    }


@torch.no_grad()
def metrics(model, readers: TextReaders) -> dict[str, Tensor]:
    """How strongly MODEL reads each direction, by kind of text: G (d, d) of trce_ops.metric.

    A kind is missing that is wider than WIDEST, or that no weights of numbers read, such as those that other packs pack
    in their own way.
    """
    weight = effective_weight(model)
    found = {kind: _reading(weight, stream) for kind, stream in readers.streams.items()}
    return {kind: G for kind, G in found.items() if G is not None}


def _reading(weight: Callable[[str], Tensor], stream: Stream) -> Tensor | None:
    if stream.width > WIDEST or not stream.keys or not _plain(weight(stream.keys[0]), stream.width):
        return None
    G = gram(map(weight, stream.keys), len(stream.keys), stream.width)
    if not G.isfinite().all():
        log.warning("The projections that read the text hold NaN or Inf; all its directions count alike.")
        return None
    return G


def _plain(W: Tensor, width: int) -> bool:
    return W.dim() == 2 and W.shape[1] >= width and W.is_floating_point()


def base_weights(model) -> Callable[[str], Tensor]:
    """The weights as they were loaded, without any patch, also while ComfyUI has patched ones in their place."""
    # ModelPatcher.get_key_patches would do, but stumbles over the scales and settings that quantised layers have.

    def base(key: str) -> Tensor:
        weight, _, dequantize = get_key_weight(model.model, key)
        if key in model.backup:
            weight = model.backup[key].weight
        if key in model.hook_backup:
            weight = model.hook_backup[key][0]
        return (dequantize(weight, inplace=False) if dequantize else weight).detach()

    return base


def changed_weights(model, delta: ErasedDelta) -> Iterator[tuple[str, Tensor, Tensor, int, int]]:
    """(parameter, W, W', done, in all), float64, for all that the delta changes: of MODEL with its LoRAs.

    Both come from ComfyUI's own way of putting patches on weights. Raises HostError for a delta that does not fit.
    """
    erased, base = apply_delta(model, delta, 1.0), base_weights(model)
    before = {key: model.patches.get(key, []) for key in erased.patches}
    added = {key: patches[len(before[key]) :] for key, patches in erased.patches.items()}
    added = {key: patches for key, patches in added.items() if patches}
    for done, (key, patches) in enumerate(added.items()):
        W = base(key).to("cpu", torch.float64, copy=True)
        W = comfy.lora.calculate_weight(before[key], W, key, torch.float64)
        yield key, W, comfy.lora.calculate_weight(patches, W.clone(), key, torch.float64), done, len(added)
