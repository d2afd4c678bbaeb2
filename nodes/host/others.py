"""What other nodes have put on a model or a text encoder: hooks, functions in the place of `forward`, wrappers.

What ComfyUI's own nodes put there is left out: they cache, cut or guide, and none of it changes how the text is read.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterable
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import comfy.patcher_extension
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import nn

from .apply import WRAPPER
from .readers import TextReaders

# Objects that enter a fingerprint by what they hold, or not at all
KEYED = ("model_sampling", "manual_cast_dtype")
STOCK = ("comfy", "comfy_api", "comfy_execution", "comfy_extras")  # folders of ComfyUI
WRAPPERS = (
    *(WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL, WrappersMP.CALC_COND_BATCH, WrappersMP.PREDICT_NOISE),
    *(WrappersMP.OUTER_SAMPLE, WrappersMP.PREPARE_SAMPLING, WrappersMP.SAMPLER_SAMPLE),
)
CALLBACKS = (  # that run before the model does
    *(CallbacksMP.ON_LOAD, CallbacksMP.ON_PRE_RUN, CallbacksMP.ON_PREPARE_STATE, CallbacksMP.ON_INJECT_MODEL),
    *(CallbacksMP.ON_APPLY_HOOKS, CallbacksMP.ON_REGISTER_ALL_HOOK_PATCHES),
)
BYPASS = "BypassForwardHook"  # ComfyUI's class around the `forward` of a layer with a LoRA in bypass mode
PATCHES = ("attn2_output_patch", "double_block")  # on what attention to the text gives
REPLACED = {"attn2": "cross-attention (attn2)", "dit": "whole blocks (dit)"}  # by functions of other nodes
FUNCTIONS = ("model_function_wrapper", "sampler_calc_cond_batch_function")  # among the model options


def put_on(patcher) -> dict[str, list[Any]]:
    """The hooks on the modules of a model, and the functions in the place of their `forward`, by the module's name.

    Those that this patcher or a clone of it puts there while it is loaded, and ComfyUI's LoRAs in bypass mode, are left
    out: the patcher itself names them.
    """
    found = {}
    for name, module in patcher.model.named_modules():
        things = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        forward = patcher.object_patches_backup.get(f"{name}.forward".lstrip("."), vars(module).get("forward"))
        while type(bypass := getattr(forward, "__self__", None)).__name__ == BYPASS:
            forward = getattr(bypass, "original_forward", None)
        if forward is not None and forward != type(module).forward.__get__(module):
            things.append(forward)
        if things:
            found[name] = things
    return found


def ways_of_others(model, readers: TextReaders) -> list[str]:
    """What other nodes have put around the layers that read the text, or around the whole model."""
    layers = {key.rpartition(".")[0] for stream in readers.streams.values() for key in stream.keys}
    around = {"", *chain.from_iterable(accumulate(f".{layer}".split(".")[1:], "{}.{}".format) for layer in layers)}
    hooked = put_on(model).keys()
    found = {"a hook on layers that read the text"} if hooked & layers else set()
    found |= {f"a hook on {name or 'the model'}" for name in hooked & (around - layers)}
    for name, thing in model.object_patches.items():
        parent = name.rpartition(".")[0]
        if callable(thing) and parent in around and (parent or name not in KEYED and not isinstance(thing, nn.Module)):
            found.add(name)
    options = model.model_options
    transformer = options.get("transformer_options", {})
    found |= {name for name in FUNCTIONS if name in options and not _is_stock(options[name])}
    patches, replaced = transformer.get("patches", {}), transformer.get("patches_replace", {})
    found |= {kind for kind in PATCHES if not all(map(_is_stock, patches.get(kind, ())))}
    found |= {
        f"a function in the place of {name}"
        for kind, name in REPLACED.items()
        if not all(map(_is_stock, replaced.get(kind, {}).values()))
    }
    for given in (transformer.get("wrappers", {}), model.wrappers):
        found |= {f"a wrapper of {kind}" for kind in WRAPPERS if _of_others(given.get(kind, {}))}
    for given in (transformer.get("callbacks", {}), model.callbacks):
        found |= {f"a callback of {kind}" for kind in CALLBACKS if _of_others(given.get(kind, {}))}
    return sorted(found)


def _of_others(given: dict[Any, Iterable]) -> bool:
    """Whether one of the functions by key is another node's."""
    return any(not _is_stock(thing) for key, things in given.items() if key != WRAPPER for thing in things)


def _is_stock(thing: Any) -> bool:
    """Whether ComfyUI itself brings the function, or the class of an object that is called."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    if inspect.ismethod(thing):
        thing = thing.__self__
    code = getattr(thing, "__code__", None)
    kind = thing if isinstance(thing, type) else type(thing)
    source = code.co_filename if code else getattr(sys.modules.get(kind.__module__), "__file__", None)
    path, base = Path(source or "").resolve(), Path(comfy.patcher_extension.__file__).resolve().parents[1]
    return path.is_relative_to(base) and path.relative_to(base).parts[:1] in [(folder,) for folder in STOCK]
