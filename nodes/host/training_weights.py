"""The weights of a loaded MODEL or CLIP with its patches, as tensors that autograd may save.

ComfyUI loads it without patches, and the patched weights are copies of ours. Otherwise it would apply them to the
copies again, if memory got so short that it took a part of the loaded model back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import chain
from uuid import uuid4

import comfy.model_management
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
        self.tensors = {
            name: patched(self.stored, name, self.device, self.dtype) if name in model.patches else normal(W)
            for name, W in named
        }

    def __getitem__(self, name: str) -> Tensor:
        W = self.tensors[name]
        if type(W.data) is Tensor and W.dtype in FLOATS:
            return W.to(self.device)
        return normal(self.stored.base(name).to(self.device, self.dtype))

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def copied(model) -> int:
    """Bytes of the copies of the weights that MODEL, or the patcher of a CLIP, has patches for."""
    shapes, stored = ModelWeights(model).shapes(), dict(model.model.named_parameters())
    return sum(
        math.prod(shapes[name]) * max(2, stored[name].element_size()) for name in model.patches if name in stored
    )


def load_bare(model, room: float = 0):
    """Load a MODEL, or the patcher of a CLIP, without its patches, hooks and what other nodes inject into its layers.

    Returns the clone that is loaded. room: bytes that are needed beside it.
    """
    bare = model.clone()
    bare.forced_hooks, bare.injections = None, {}
    if bare.patches:
        bare.patches, bare.patches_uuid = {}, uuid4()
    with torch.inference_mode():  # as always in ComfyUI: it cannot move quantised weights back that it loaded otherwise
        comfy.model_management.load_models_gpu([bare], room)
    return bare


def with_hooks(model):
    """A clone of the patcher of a CLIP that has the patches of the hooks that are always on among its own."""
    whole = model.clone()
    for key, patches in model.get_combined_hook_patches(model.forced_hooks).items():
        whole.patches[key] = [*whole.patches.get(key, ()), *patches]
    return whole


@torch.no_grad()
def patched(stored: ModelWeights, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy of a weight with its patches, in its own type, or in `dtype` if gradients cannot pass that."""
    own = stored.base(name).dtype
    W = stored.patched(name, device)
    return normal(W.to(own if own in FLOATS else dtype))


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
