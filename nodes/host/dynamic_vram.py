"""A MODEL or a CLIP that gradients can pass, where ComfyUI has loaded it with DynamicVRAM (its default for NVIDIA).

DynamicVRAM fetches the weights of a layer when it runs, into memory that others get afterwards. What autograd saves
there would be overwritten, and patches act on fetched weights alone, not on those that a caller passes in. So a copy is
loaded from the same file in ComfyUI's other way, as its own nodes do that compile a model, and unloaded in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import HostError


def check_file(model, name: str = "model") -> None:
    """Raises HostError for a MODEL with DynamicVRAM whose file is not known."""
    if model.is_dynamic() and model.cached_patcher_init is None:
        raise HostError(
            f"The connected '{name}' was loaded by a node that does not say from which file, and ComfyUI's DynamicVRAM "
            "gives no gradients. Load it with one of ComfyUI's own loaders, or start ComfyUI with "
            "--disable-dynamic-vram."
        )


@contextmanager
def without_dynamic_vram(model, name: str = "model") -> Iterator:
    """MODEL itself, or the copy with the same patches. name: of the input. Raises what check_file does."""
    check_file(model, name)
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
    with without_dynamic_vram(clip.patcher, "clip") as patcher:
        if patcher is not clip.patcher:
            clip = clip.clone()
            clip.patcher, clip.cond_stage_model = patcher, patcher.model
        yield clip
