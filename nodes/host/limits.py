"""The limits of an erasure on a model, one line each, for the report and the log."""

from __future__ import annotations

import logging

import comfy.utils
from comfy.patcher_extension import WrappersMP

from ...trce_ops.delta.file import ErasedDelta
from ...trce_ops.text.concepts import unlike_prompts
from .apply import WRAPPER, maps_on_text
from .fingerprint import KEYED
from .readers import TextReaders, find_text_readers

log = logging.getLogger(__name__)


def limits(model, delta: ErasedDelta, clip=None, concepts: str = "") -> list[str]:
    """Sentences about an erasure on MODEL, with the CLIP that encodes the prompts and the text of the concepts widget
    if they are known. Also logs them."""
    readers = find_text_readers(model)
    lines = []
    if readers.row.leaks:
        lines.append(f"Not reached: {readers.row.leaks}.")
    if left := sorted(readers.streams.keys() - {"context", *delta.streams}):
        lines.append(
            f"Not reached: the {' and '.join(left)} text of this model, for which the delta has no map. Erase on a "
            f"{readers.family} model to get one."
        )
    if model.injections:
        lines.append(
            "Not reached: what another node adds to the model while it runs, such as a LoRA loaded in bypass mode. It "
            "may draw the concept again. Load a LoRA with the node Load LoRA, before the erasure."
        )
    if model.weight_wrapper_patches:
        lines.append(
            "Not reached: what another node makes of the weights while the model runs (add_weight_wrapper). Look at "
            "pictures before you trust the erasure."
        )
    if model.model_options.get("transformer_options", {}).get("patches", {}).get("attn2_patch"):
        lines.append(
            "Not reached: what another node changes in the text inside cross-attention (attn2_patch, as hypernetworks "
            "do). Look at pictures before you trust the erasure."
        )
    if ways := ways_of_others(model, readers):
        lines.append(
            f"Not checked: another node changes how the model runs ({', '.join(ways)}). If that changes the text, the "
            "erasure may not be reached. Look at pictures before you trust it."
        )
    patcher = None if clip is None else clip.patcher
    if patcher and (patcher.injections or patcher.weight_wrapper_patches or patcher.object_patches.keys() - {*KEYED}):
        lines.append(
            "The CLIP has a LoRA loaded in bypass mode or another node's changes, which a delta cannot be checked "
            "against: on another day it is taken for another text encoder. Load a LoRA with the node Load LoRA."
        )
    if clip is not None and clip.patcher.forced_hooks and clip.use_clip_schedule:
        lines.append(
            "The CLIP changes during sampling (Set CLIP Hooks with a schedule); the erasure fits its first state."
        )
    if maps_on_text(readers, delta):
        part = "" if readers.row.conditioning else " of the tokens"
        lines.append(
            f"The map{part} acts on the conditioning, because a {readers.family} model has no weights for it: Save "
            "Model, merges and LoRAs cannot hold it. Save the delta, and apply it after loading."
        )
    lines += unlike_prompts(concepts)
    for line in lines:
        log.warning("%s", line)
    return lines


def ways_of_others(model, readers: TextReaders) -> list[str]:
    """What other nodes have put around the layers that read the text, or around the whole model."""
    found = set()
    for key in (key for stream in readers.streams.values() for key in stream.keys):
        name = key.rpartition(".")[0]
        layer = comfy.utils.get_attr(model.model, name)
        if "forward" in vars(layer) or layer._forward_hooks or layer._forward_pre_hooks:
            found.add("a hook on layers that read the text")
        found |= {
            name_of_patch
            for name_of_patch in model.object_patches
            if name.startswith(f"{name_of_patch.rpartition('.')[0]}.") and callable(model.object_patches[name_of_patch])
        }
    if "model_function_wrapper" in model.model_options:
        found.add("model_function_wrapper")
    wrappers = model.model_options.get("transformer_options", {}).get("wrappers", {}) | model.wrappers
    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL):
        if any(key != WRAPPER for key, given in wrappers.get(kind, {}).items() if given):
            found.add(f"a wrapper of {kind}")
    return sorted(found)
