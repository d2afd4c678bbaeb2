"""A MODEL whose projections are packed as a GGUF loader packs them, built on the gguf package.

What the well-known loaders have in common: a weight is a tensor of bytes that carries `tensor_type`, `tensor_shape` and
the `patches` put on it, and the module around it unpacks the weight with get_weight(tensor, dtype) at every call.
"""

from __future__ import annotations

import comfy.lora
import comfy.model_patcher
import comfy.ops
import comfy.utils
import gguf
import numpy as np
import torch
from torch import Tensor, nn

Q8_0 = gguf.GGMLQuantizationType.Q8_0


class PackedTensor(Tensor):
    """Bytes that report the shape of what they hold."""

    tensor_type = None

    def to(self, *args, **kwargs):
        return dressed(super().to(*args, **kwargs), self)

    def clone(self):
        return self

    def detach(self):
        return self

    @property
    def shape(self):
        return self.tensor_shape


def dressed(tensor: Tensor, like: PackedTensor) -> PackedTensor:
    tensor.tensor_type, tensor.tensor_shape, tensor.patches = like.tensor_type, like.tensor_shape, list(like.patches)
    return tensor


def pack(W: Tensor, kind=Q8_0) -> PackedTensor:
    packed = torch.from_numpy(gguf.quants.quantize(W.numpy(), kind)).as_subclass(PackedTensor)
    packed.tensor_type, packed.tensor_shape, packed.patches = kind, W.shape, []
    return packed


def unpacked(W: Tensor, kind=Q8_0) -> Tensor:
    """The numbers that remain of W."""
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(W.numpy(), kind), kind))


class PackedLinear(nn.Module):
    def __init__(self, linear: nn.Module, kind=Q8_0):
        super().__init__()
        self.weight = nn.Parameter(pack(linear.weight.detach().float(), kind), requires_grad=False)
        self.bias = linear.bias

    def get_weight(self, tensor: PackedTensor, dtype: torch.dtype) -> Tensor:
        if getattr(tensor, "tensor_type", None) is None:  # plain numbers in its place
            return tensor.to(dtype)
        raw = np.asarray(tensor.data.as_subclass(Tensor))
        W = torch.from_numpy(gguf.quants.dequantize(raw, tensor.tensor_type)).to(dtype)
        for patches, key in tensor.patches:
            W = comfy.lora.calculate_weight(patches, W, key)
        return W

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.get_weight(self.weight, x.dtype), self.bias)


class PackedPatcher(comfy.model_patcher.ModelPatcher):
    """Puts patches beside a packed weight instead of into it."""

    def patch_weight_to_device(self, key, device_to=None, inplace_update=False, **options):
        weight = comfy.utils.get_attr(self.model, key)
        if not isinstance(weight.data, PackedTensor):
            return super().patch_weight_to_device(key, device_to, inplace_update, **options)
        if key in self.patches:
            patched = weight.data.as_subclass(PackedTensor)
            dressed(patched, weight).patches = [(self.patches[key], key)]
            comfy.utils.set_attr_param(self.model, key, patched)

    def unpatch_model(self, device_to=None, unpatch_weights=True):
        for parameter in self.model.parameters() if unpatch_weights else ():
            if getattr(parameter, "patches", None):
                parameter.patches = []
        return super().unpatch_model(device_to, unpatch_weights)

    def load(self, *args, force_patch_weights=False, **options):
        super().load(*args, force_patch_weights=True, **options)


def packed_copy(model, keys, kind=Q8_0):
    """The same MODEL with these weights packed. It shares no module with the one that is given."""
    for key in keys:
        name = key.removesuffix(".weight")
        parent, _, leaf = name.rpartition(".")
        owner = comfy.utils.get_attr(model.model, parent)
        linear = owner[int(leaf)] if leaf.isdigit() else getattr(owner, leaf)
        owner._modules[leaf] = PackedLinear(linear, kind)
    return PackedPatcher(model.model, model.load_device, model.offload_device)


def rounded_copy(model, keys, kind=Q8_0):
    """The same MODEL with plain weights that hold what packing leaves of them."""
    with torch.no_grad():
        for key in keys:
            weight = comfy.utils.get_attr(model.model, key)
            weight.copy_(unpacked(weight.float(), kind))
    return model
