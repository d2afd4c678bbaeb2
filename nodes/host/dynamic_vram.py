"""A MODEL or a CLIP that gradients can pass, where ComfyUI has loaded it with DynamicVRAM (its default for NVIDIA).

DynamicVRAM fetches the weights of a layer when it runs, into memory that others get afterwards. What autograd saves
there would be overwritten, and patches act on fetched weights alone, not on those that a caller passes in. So a copy is
loaded from the same file in ComfyUI's other way, as its own nodes do that compile a model, and unloaded in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import HostError


def has_gradients(model) -> bool:
    """Whether a MODEL, or the patcher of a CLIP, can be trained as it is, or as a copy from its file."""
    return not model.is_dynamic() or model.cached_patcher_init is not None


def check_file(model, name: str, remedy: str = "connect another one") -> None:
    """Raises HostError if gradients cannot pass. name: of the input; remedy: what else can be done."""
    if not has_gradients(model):
        raise HostError(
            f"The connected '{name}' was loaded by a node that does not say from which file, and ComfyUI's DynamicVRAM "
            "has no gradients. Load it with one of ComfyUI's own loaders, start ComfyUI with --disable-dynamic-vram, "
            f"or {remedy}."
        )


@contextmanager
def without_dynamic_vram(model) -> Iterator:
    """MODEL itself, or a copy with the same patches; see has_gradients."""
    if not model.is_dynamic():
        yield model
        return
    copy = model.clone(disable_dynamic=True)
    copy.parent = None  # or ComfyUI would take the parent for loaded when the copy is gone
    try:
        yield copy
    finally:
        copy.detach()


@contextmanager
def clip_without_dynamic_vram(clip) -> Iterator:
    """The same for a CLIP."""
    with without_dynamic_vram(clip.patcher) as patcher:
        if patcher is not clip.patcher:
            clip = clip.clone()
            clip.patcher, clip.cond_stage_model = patcher, patcher.model
        yield clip
