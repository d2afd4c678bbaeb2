"""The weights of a MODEL by name: plain, quantised or packed by a loader, with or without the patches on them.

What measures or exports weights goes through ModelWeights, so that a packed weight is never mistaken for numbers.
"""

from __future__ import annotations

from typing import Any

import comfy.lora
import comfy.utils
import torch
from comfy.model_patcher import get_key_weight
from comfy.quant_ops import QuantizedTensor
from torch import Tensor

from .errors import HostError


class ModelWeights:
    """The weights of a MODEL.

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
        module = comfy.utils.get_attr(self.model.model, key.rpartition(".")[0])
        if is_packed(weight):
            return unpack(weight, module)
        if not dequantize and (beside := tensors_beside(module, weight)):
            raise HostError(
                f"The connected 'model' holds {key} as numbers that another node combines with '{min(beside)}' while "
                "it runs; load the model in fp16, bf16, fp8 or as GGUF."
            )
        weight = (dequantize(weight, inplace=False) if dequantize else weight).detach()
        weight = weight.dequantize() if isinstance(weight, QuantizedTensor) else weight
        check_numbers(key, weight)
        return weight

    def rounds(self) -> bool:
        """Whether the weights are in fewer than 16 bits, which round small differences away."""
        return any(W.element_size() < 2 or isinstance(W, QuantizedTensor) for W in self.model.model.parameters())

    def patched(self, key: str, device: torch.device | str = "cpu") -> Tensor:
        """The weight with the patches of MODEL, float32 on the device; without patches in its own type and place."""
        weight, patches = self.base(key), self.model.patches.get(key)
        if not patches:
            return weight
        return comfy.lora.calculate_weight(patches, weight.to(device, torch.float32, copy=True), key)


OWN = vars(torch.nn.Module()).keys()  # where torch keeps parameters, buffers and hooks
# Where ComfyUI's DynamicVRAM keeps what it has fetched or pinned
FETCHED = ("_v_weight", "_v_bias", "_prefetch", "_pin")


def tensors_beside(module: Any, weight: Tensor) -> dict[str, Tensor]:
    """What a layer with plain numbers for a matrix holds beside weight and bias: scales, a branch of a quantiser."""
    if weight.ndim != 2 or isinstance(weight, QuantizedTensor) or is_packed(weight):
        return {}
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name in vars(module).keys() - OWN - {*FETCHED}:
        tensors |= _tensors_in(name, vars(module)[name])
    return {name: tensor for name, tensor in tensors.items() if name not in ("weight", "bias")}


def _tensors_in(name: str, value: Any) -> dict[str, Tensor]:
    """A tensor by its name, or those in a dict or a list by their places."""
    if torch.is_tensor(value):
        return {name: value}
    places = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {f"{name}.{place}": inner for place, inner in places if torch.is_tensor(inner)}


def check_alone(name: str, module: Any) -> None:
    """Raises HostError for a layer that reads text, where what it holds beside its weight is no scale of whole rows.

    A map acts on the columns, so a scale of the rows does not matter, and any other one would be passed by.
    """
    weight = module.weight
    rows = weight.shape[0]
    shapes = {(), (1,), (rows, 1)} | ({(rows,)} if weight.ndim == 2 and rows != weight.shape[1] else set())
    for beside, tensor in tensors_beside(module, weight).items():
        if tuple(tensor.shape) not in shapes and not hasattr(module, "convert_weight"):
            raise HostError(
                f"The connected 'model' holds {name} as numbers that another node combines with '{beside}' "
                f"{tuple(tensor.shape)} while it runs, which an erasure does not reach; load the model in fp16, bf16, "
                "fp8 or as GGUF."
            )


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
    try:
        return module.get_weight(bare, torch.float32).as_subclass(Tensor).detach()
    except TypeError as error:  # another loader's get_weight
        raise HostError(
            f"The connected 'model' holds weights packed in a way that this pack does not know: {error}"
        ) from error


def check_numbers(key: str, weight: Tensor) -> None:
    """Raises HostError for a weight that is packed in a way that neither ComfyUI nor this pack can read."""
    if not (weight.is_floating_point() or is_packed(weight) or isinstance(weight, QuantizedTensor)):
        raise HostError(
            f"The connected 'model' holds {key} as {weight.dtype} in a format that this pack cannot read; load the "
            "model in fp16, bf16, fp8 or as GGUF."
        )
