"""Applies an erased delta to a MODEL: to the weights that read its text, or to the text itself."""

from __future__ import annotations

from collections.abc import Mapping

import comfy.model_management
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy.weight_adapter.base import WeightAdapterBase
from comfy.weight_adapter.lora import LoRAAdapter
from torch import Tensor

from ...trce_ops.delta.file import ErasedDelta
from ...trce_ops.delta.low_rank import ContextMap, Tuned, shift_text
from .errors import HostError
from .readers import CLIP_ROWS, CONTEXT, TextReaders, find_text_readers

WRAPPER = "trce_context_map"


class ContextMapPatch(WeightAdapterBase):
    """W + strength * W D on every weight that reads the text; one object serves all of them.

    Columns past the width of D read other inputs and do not change. ComfyUI may move and copy the factors
    (`weights`); no copy stays on any device.
    """

    name = "trce_context_map"

    def __init__(self, loaded_keys, weights):  # ComfyUI recreates adapters with this signature
        self.loaded_keys = loaded_keys
        self.weights = weights  # (D,) or (up, down)

    def calculate_weight(
        self,
        weight,
        key,
        strength,
        strength_model,
        offset,
        function,
        intermediate_dtype=torch.float32,
        original_weight=None,
    ):
        # At least float32: large entries of D cancel in the product. The sum is rounded to the weight's type once.
        dtype = torch.promote_types(intermediate_dtype, torch.float32)
        text = weight[:, : self.weights[0].shape[0]]
        shift = text.to(dtype)
        for factor in self.weights:
            shift = shift @ comfy.model_management.cast_to_device(factor, weight.device, dtype)
        text += function(shift.mul_(strength))
        return weight


class ConditioningMap:
    """c + strength * D c on the sequence of embeddings, for models without a weight that can hold the map.

    With a `clip` map too, the rows of CLIP (those that are zero past its width) get that map and all others the
    `context` map. The maps are uploaded at the first call on a device, not at every step of the sampler, and stay there
    until sampling ends.
    """

    def __init__(self, maps: Mapping[str, ContextMap], strength: float):
        self.maps = maps
        self.strength = strength
        self._on: tuple[torch.device, dict[str, ContextMap]] | None = None

    def _maps_on(self, device: torch.device) -> dict[str, ContextMap]:
        """The maps in float32 on the device of the last call."""
        if self._on is None or self._on[0] != device:
            self._on = device, {kind: D.to(device, torch.float32) for kind, D in self.maps.items()}
        return self._on[1]

    def release(self, _patcher) -> None:
        """Forget the uploaded maps, which ComfyUI does not know of. A callback for the end of sampling."""
        self._on = None

    def apply(self, context: Tensor) -> Tensor:  # (..., d) -> (..., d), a new tensor
        c = context.float()
        for kind, context_map in self.maps.items():
            if context_map.width > c.shape[-1] or kind == CONTEXT and context_map.width != c.shape[-1]:
                raise HostError(
                    f"The delta maps text of width {context_map.width} and the prompt has width {c.shape[-1]}; connect "
                    "the CLIP that the delta was made with to the prompts."
                )
        return (c + self.strength * shift_text(self._maps_on(c.device), c)).to(context.dtype)

    def __call__(self, executor, x, t, c_concat=None, c_crossattn=None, *args, **kwargs):
        """Wraps BaseModel.apply_model."""
        mapped = c_crossattn if c_crossattn is None else self.apply(c_crossattn)
        return executor(x, t, c_concat, mapped, *args, **kwargs)


def apply_delta(model, delta: ErasedDelta, strength: float):
    """A clone of MODEL with the delta applied wherever the text is read. Raises HostError when it does not fit.

    The patch comes after existing ones: W is the weight with its LoRAs, and deltas compose in the order applied.
    """
    readers = find_text_readers(model)
    _check_fit(delta, readers)
    tuned = tuned_patches(model, delta.tuned)
    erased = model.clone()
    if not strength:
        return erased
    on_text = {kind: delta.maps[kind] for kind in maps_on_text(readers, delta)}
    if any(context_map.rank for context_map in on_text.values()):
        _map_conditioning(erased, ConditioningMap(on_text, strength))
    for kind, context_map in delta.maps.items():
        if context_map.rank and kind in readers.streams and kind not in on_text:
            patch = ContextMapPatch(set(), context_map.factors)
            add_patches(erased, dict.fromkeys(readers.streams[kind].keys, patch), strength)
    if tuned:
        add_patches(erased, tuned, strength)  # after the map: W + s W D + s dW
    return erased


def maps_on_text(readers: TextReaders, delta: ErasedDelta) -> tuple[str, ...]:
    """The kinds of text whose maps act on the conditioning, because no weights of the model can take them."""
    if CLIP_ROWS in delta.maps:  # two maps, and one weight reads both kinds of rows
        return CONTEXT, CLIP_ROWS
    return (CONTEXT,) if readers.row.conditioning else ()


def _check_fit(delta: ErasedDelta, readers: TextReaders) -> None:
    family, maps, row = delta.info.family, delta.maps, readers.row
    given = ", ".join(f"{kind} of width {context_map.width}" for kind, context_map in maps.items())
    taken = ", ".join(f"{kind} of width {stream.width}" for kind, stream in readers.streams.items())
    fits = all(
        maps[kind].width == stream.width or row.clip_rows and kind == CONTEXT and maps[kind].width < stream.width
        for kind, stream in readers.streams.items()
        if kind in maps
    )
    known = {CONTEXT, *readers.streams, *([CLIP_ROWS] if row.clip_rows else [])}
    if (family, delta.info.space) != (readers.family, readers.space) or not fits or not maps.keys() <= known:
        raise HostError(
            f"The delta is for {family} models ({given}; {delta.info.space} space); the connected 'model' is "
            f"{readers.family} ({taken or 'on the conditioning'}; {readers.space} space). Connect the delta to a model "
            "of its own family."
        )


def _map_conditioning(model, conditioning_map: ConditioningMap) -> None:
    """Map the conditioning. Deltas compose as on weights, W T1 T2, so the newest map is applied first."""
    model.add_callback_with_key(CallbacksMP.ON_CLEANUP, WRAPPER, conditioning_map.release)
    preprocess = "diffusion_model.preprocess_text_embeds"
    if hasattr(model.model.diffusion_model, "preprocess_text_embeds"):
        # This model processes its text before sampling, so apply_model never sees the embeddings.
        inner = model.get_model_object(preprocess)

        def mapped(context, *args, **kwargs):
            return inner(conditioning_map.apply(context), *args, **kwargs)

        model.add_object_patch(preprocess, mapped)
        return
    older = model.get_wrappers(WrappersMP.APPLY_MODEL, WRAPPER)
    model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, WRAPPER)
    for wrapper in (conditioning_map, *older):
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, WRAPPER, wrapper)


def add_patches(model, patches: dict, strength: float) -> None:
    """Put patches on MODEL. Raises HostError when it does not take one."""
    missed = set(patches) - set(model.add_patches(patches, strength))
    if missed:
        raise HostError(
            f"The connected 'model' does not take patches on {len(missed)} projections, such as {min(missed)}."
        )


def tuned_patches(model, tuned: Tuned) -> dict:
    """dW of every tuned projection as ComfyUI's own patches. Raises HostError for a projection that MODEL lacks."""
    weights = dict(model.model.named_parameters()) if tuned else {}
    patches = {}
    for module, change in tuned.items():
        key = f"{module}.weight"
        if key not in weights or weights[key].shape != change.shape:
            found = f"of shape {tuple(weights[key].shape)}" if key in weights else "nothing"
            raise HostError(
                f"The delta tunes {module} of shape {change.shape}, where the connected 'model' has {found}. Connect "
                "the model that the delta was tuned on, or one of the same build."
            )
        if len(change.factors) == 1:
            patches[key] = ("diff", change.factors)
        else:
            patches[key] = LoRAAdapter(set(), (*change.factors, None, None, None, None))
    return patches
