"""The weights of a MODEL by name: plain, quantised or packed by a loader, with or without the patches on them.

Everything that reads weights goes through ModelWeights, so that a packed weight is never mistaken for numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import comfy.lora
import comfy.utils
import torch
from comfy.model_patcher import get_key_weight
from comfy.quant_ops import QuantizedTensor
from torch import Tensor

from ...trce_ops.closed_form.metric import gram
from ...trce_ops.delta.file import ErasedDelta
from .apply import apply_delta, maps_on_text
from .errors import HostError
from .readers import Stream, TextReaders, find_text_readers

log = logging.getLogger(__name__)

WIDEST = 4096  # d up to which G is computed: inverting it takes d^3 steps, minutes on a CPU for the widest encoders


class ModelWeights:
    """The weights of a MODEL or of a CLIP's patcher.

    Loaders of GGUF files keep a weight as packed bytes, a tensor with `tensor_type` and `tensor_shape`, in a module
    whose get_weight(tensor, dtype) unpacks it and applies the tensor's `patches`. Such weights are unpacked here.
    """

    def __init__(self, model):
        self.model = model

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all parameters and buffers, of packed ones the unpacked shapes."""
        module = self.model.model
        weights = (*module.named_parameters(), *module.named_buffers())
        return {name: tuple(getattr(weight, "tensor_shape", weight.shape)) for name, weight in weights}

    def base(self, key: str) -> Tensor:
        """The weight as it was loaded, without patches, even while ComfyUI has patched it.

        Raises HostError for a weight in an unknown format.
        """
        # ModelPatcher.get_key_patches would do, but fails on the scales and settings that quantised layers have.
        weight, _, dequantize = get_key_weight(self.model.model, key)
        if key in self.model.backup:
            weight = self.model.backup[key].weight
        if key in self.model.hook_backup:
            weight = self.model.hook_backup[key][0]
        if is_packed(weight):
            return unpack(weight, comfy.utils.get_attr(self.model.model, key.rpartition(".")[0]))
        weight = (dequantize(weight, inplace=False) if dequantize else weight).detach()
        weight = weight.dequantize() if isinstance(weight, QuantizedTensor) else weight
        if not weight.is_floating_point():
            raise HostError(
                f"The connected 'model' holds {key} as {weight.dtype} in a format that this pack cannot read; load the "
                "model in fp16, bf16, fp8 or as GGUF."
            )
        return weight

    def patched(self, key: str) -> Tensor:
        """The weight with the patches of MODEL, float32 on the CPU; without patches in its own type and place."""
        patches = self.model.patches.get(key)
        return comfy.lora.calculate_weight(patches, _float(self.base(key)), key) if patches else self.base(key)


def is_packed(weight: Tensor) -> bool:
    """Whether a GGUF loader has packed the weight; its float types are plain numbers in a tensor of the same class."""
    return getattr(weight, "tensor_type", None) is not None


def unpack(weight: Any, module: Any) -> Tensor:
    """The numbers of a packed weight in float32, without the patches of its loader."""
    if not hasattr(module, "get_weight"):
        raise HostError(
            f"The connected 'model' holds weights packed as {weight.tensor_type}, and their {type(module).__name__} "
            "cannot unpack them; load the model with another loader, or in fp16 or bf16."
        )
    bare = weight.data.as_subclass(type(weight))  # the same memory: the weight in the model keeps its patches
    bare.tensor_type, bare.tensor_shape, bare.patches = weight.tensor_type, weight.tensor_shape, []
    return module.get_weight(bare, torch.float32).as_subclass(Tensor).detach()


def _float(W: Tensor) -> Tensor:
    return W.to("cpu", torch.float32, copy=True)


@torch.no_grad()
def text_weights(model, readers: TextReaders) -> dict[str, dict[str, Tensor]]:
    """The weights that read the text, by kind of text and module; float32, on the CPU."""
    weights = ModelWeights(model)
    return {
        kind: {key.removesuffix(".weight"): _float(weights.patched(key)) for key in stream.keys}
        for kind, stream in readers.streams.items()
    }


@torch.no_grad()
def metrics(model, readers: TextReaders) -> dict[str, Tensor | str]:
    """By kind of text, how strongly MODEL responds to each of its directions (G (d, d) of closed_form/metric.py), or
    the reason why that cannot be computed."""
    weights, found = ModelWeights(model), {}
    for kind, stream in readers.streams.items():
        try:
            found[kind] = _metric(weights, stream)
        except HostError as error:
            found[kind] = str(error)
            log.warning("No metric for the %s text: %s", kind, error)
    return found


def _metric(weights: ModelWeights, stream: Stream) -> Tensor:  # (d, d)
    if stream.width > WIDEST:
        raise HostError(f"its width {stream.width} is more than {WIDEST}, which would take minutes.")
    if not stream.keys:
        raise HostError("no weight of its own reads it.")
    G = gram(map(weights.patched, stream.keys), len(stream.keys), stream.width)
    if not G.isfinite().all():
        raise HostError("the weights that read it hold NaN or Inf.")
    return G


def changed_weights(model, delta: ErasedDelta) -> Iterator[tuple[str, Tensor, Tensor, int, int]]:
    """(parameter, W, W', done, total) for every weight that the delta changes, with the LoRAs of MODEL; in float64.

    W and W' are computed by ComfyUI's own patching. Raises HostError for a delta that does not fit, and for a map that
    no weights can hold: the others alone would not erase.
    """
    erased, weights, readers = apply_delta(model, delta, 1.0), ModelWeights(model), find_text_readers(model)
    if maps_on_text(readers, delta):
        raise HostError(
            f"Weights cannot hold this erasure, because a {readers.family} model takes the map of its tokens on the "
            "conditioning. Use Save Erased Delta, and Apply Erased Delta where the model is loaded."
        )
    before = {key: model.patches.get(key, []) for key in erased.patches}
    added = {key: patches[len(before[key]) :] for key, patches in erased.patches.items()}
    added = {key: patches for key, patches in added.items() if patches}
    for done, (key, patches) in enumerate(added.items()):
        W = weights.base(key).to("cpu", torch.float64, copy=True)
        W = comfy.lora.calculate_weight(before[key], W, key, torch.float64)
        yield key, W, comfy.lora.calculate_weight(patches, W.clone(), key, torch.float64), done, len(added)
