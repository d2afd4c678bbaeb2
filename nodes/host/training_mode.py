"""What changes in how ComfyUI and a MODEL compute while gradients are needed; undone at the end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from .families import Family


@contextmanager
def training() -> Iterator[None]:
    """ComfyUI's switches while gradients are needed. Enter it before loading.

    NUM_STREAMS: with streams, weights that are off the device come through one buffer that every layer overwrites,
    where autograd would find the weights of another layer.
    """
    management = comfy.model_management
    before = management.in_training, management.NUM_STREAMS
    management.in_training, management.NUM_STREAMS = True, 0
    try:
        yield
    finally:
        management.in_training, management.NUM_STREAMS = before


class OutOfPlace(TorchFunctionMode):
    """Computes `x += y` as `x = x + y`: some models add to tensors that the backward pass still needs as they were."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return OUT_OF_PLACE.get(func.__name__, func)(*args, **(kwargs or {}))


OUT_OF_PLACE = {"add_": Tensor.add, "sub_": Tensor.sub, "mul_": Tensor.mul}


class _Original(nn.Module):
    """A module with the `forward` of its class, whatever stands in the place of it."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs) -> Any:
        return type(self.module).forward(self.module, *args, **kwargs)


def _again(module: nn.Module, *args, **kwargs) -> Any:
    """The module's forward, computed again in the backward pass with the weights that it has now."""
    if not torch.is_grad_enabled():
        return type(module).forward(module, *args, **kwargs)
    weights = {f"module.{name}": W for name, W in (*module.named_parameters(), *module.named_buffers())}
    call = partial(torch.func.functional_call, _Original(module), weights)

    def run(*args: Any, **kwargs: Any) -> Any:
        with OutOfPlace():
            return call(args, kwargs)

    return checkpoint(run, *args, use_reentrant=False, **kwargs)


def _same(module: nn.Module, x: Tensor, *args, **kwargs) -> Tensor:
    return x


@contextmanager
def _replaced(modules: dict[str, nn.Module], pattern: str, forward: Callable) -> Iterator[None]:
    with ExitStack() as stack:
        for name, module in modules.items() if pattern else ():
            if re.fullmatch(pattern, name) and "forward" not in vars(module):
                module.forward = partial(forward, module)
                stack.callback(vars(module).pop, "forward", None)
        yield


@contextmanager
def open_for_training(network: nn.Module, row: Family, large: bool) -> Iterator[None]:
    """While open, the network skips the norms that its text passes first, since training texts come from behind them.
    Layers with weights of eight bits compute in full precision: ComfyUI's products of eight bits cannot save weights
    that it has loaded, or do without when a gradient is needed, and then give another prediction.

    large: blocks are computed again in the backward pass instead of being kept (Chen et al. 2016, gradient
    checkpointing), so that only what goes into them is in memory.
    """
    modules = dict(network.named_modules())
    norms = "|".join(reader.norm for reader in row.readers.values() if reader.norm)
    quantised: list[Any] = [m for m in modules.values() if getattr(m, "_full_precision_mm", True) is False]
    fast: list[Any] = [m for m in modules.values() if isinstance(m, comfy.ops.fp8_ops.Linear)]
    plain = comfy.ops.manual_cast.Linear.forward_comfy_cast_weights
    try:
        for module in quantised:
            module._full_precision_mm = True
        for module in fast:
            module.forward_comfy_cast_weights = partial(plain, module)
        with _replaced(modules, row.blocks if large else "", _again), _replaced(modules, norms, _same):
            yield
    finally:
        for module in quantised:
            module._full_precision_mm = False
        for module in fast:
            vars(module).pop("forward_comfy_cast_weights", None)
