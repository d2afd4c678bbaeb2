"""All weights of a loaded MODEL with its patches, as tensors that autograd may save."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

import torch
from comfy.quant_ops import QuantizedTensor
from torch import Tensor

from .weights import ModelWeights, is_packed

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


class Weights(Mapping[str, Tensor]):
    """The weights by name, as plain tensors on the device.

    tensors: the same weights as the network uses them: quantised and packed ones unchanged, those that ComfyUI keeps
    off the device where they are. bare: the loaded MODEL without patches.
    """

    def __init__(self, model, bare):
        self.stored, self.device, self.dtype = ModelWeights(model), bare.load_device, bare.model.get_dtype_inference()
        named = chain(bare.model.named_parameters(), bare.model.named_buffers())
        self.tensors = {name: self._patched(name) if name in model.patches else normal(W) for name, W in named}

    @torch.no_grad()
    def _patched(self, name: str) -> Tensor:
        dtype = self.stored.base(name).dtype
        W = self.stored.patched(name, self.device)
        return normal(W.to(dtype if dtype in FLOATS else self.dtype))

    def __getitem__(self, name: str) -> Tensor:
        W = self.tensors[name]
        if type(W.data) is Tensor and W.dtype in FLOATS:
            return W.to(self.device)
        return normal(self.stored.base(name).to(self.device, self.dtype))

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def normal(tensor: Tensor) -> Tensor:
    """A view of the tensor that autograd may save. Tensors made in inference mode may not be saved.

    Quantised and packed weights stay as they are: what is computed from them is saved, not they.
    """
    if isinstance(tensor, QuantizedTensor) or is_packed(tensor):
        return tensor
    tensor = tensor.detach()
    if not tensor.is_inference():
        return tensor
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
