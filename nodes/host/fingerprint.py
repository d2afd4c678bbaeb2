"""Fingerprints of ComfyUI models: equal for models that compute the same, on any device and in any precision."""

from __future__ import annotations

import hashlib
import secrets
from itertools import chain
from weakref import WeakKeyDictionary

import torch
from comfy.quant_ops import QuantizedTensor
from comfy.sd1_clip import SDClipModel
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from .others import KEYED, put_on
from .weights import is_packed

# Weights that do not affect the diffusion model. A checkpoint may lack them, and then they are uninitialised.
UNREAD = ("logit_scale", "clip_l.transformer.text_projection.weight", "clip_h.transformer.text_projection.weight")
SWITCHES = ("enable_attention_masks", "zero_out_masked", "layer_norm_hidden_state")
SAMPLES = 256  # values of every weight that enter a fingerprint in their order, besides a sum over all of them

_opaque: WeakKeyDictionary[object, bytes] = WeakKeyDictionary()  # a name for each, that no other will ever have
_base_digests: WeakKeyDictionary[torch.nn.Module, dict[tuple[str, ...], bytes]] = WeakKeyDictionary()


def base_digest(patcher, ignored: tuple[str, ...] = ()) -> bytes:
    """Hash of the unpatched weights except names ending in `ignored`; cached per module."""
    cached = _base_digests.setdefault(patcher.model, {})
    if ignored not in cached:
        digest = hashlib.sha256()
        for key, weight in sorted(_base_weights(patcher)):
            if not key.endswith(ignored):
                digest.update(key.encode())
                hash_into(digest, weight)
        cached[ignored] = digest.digest()
    return cached[ignored]


def _base_weights(patcher) -> list[tuple[str, Tensor]]:
    """Every weight without patches.

    ModelPatcher.get_key_patches would give them too, but fails on quantised layers, whose state dict names scales that
    are not attributes of the layer.
    """
    module = patcher.model
    weights = dict(chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)))
    weights |= {key: backup.weight for key, backup in patcher.backup.items()}
    weights |= {key: backup[0] for key, backup in patcher.hook_backup.items()}
    return [(key, weights[key]) for key in patcher.model_state_dict() if key in weights]


def hash_patches(digest, patcher) -> None:
    """Add the patches on the weights to the digest."""
    for key, patches in sorted(patcher.patches.items()):
        digest.update(key.encode())
        hash_into(digest, patches)
    # LoRAs in bypass mode, functions on weights, hooks and objects of other nodes are opaque: equal to themselves alone
    opaque = chain(patcher.injections.values(), patcher.weight_wrapper_patches.values())
    objects = (thing for name, thing in sorted(patcher.object_patches.items()) if name not in KEYED)
    for name, things in put_on(patcher).items():
        digest.update(f"on {name}".encode())
        objects = chain(objects, things)
    for thing in chain(chain.from_iterable(opaque), objects):
        try:
            digest.update(_opaque.setdefault(thing, secrets.token_bytes()))
        except TypeError:  # a number, a text
            digest.update(repr(thing).encode())
    for hook in patcher.forced_hooks.hooks if patcher.forced_hooks else ():  # LoRAs of Set CLIP Hooks
        digest.update(f"hook {hook.strength}".encode())
        hash_into(digest, sorted(patcher.hook_patches.get(hook.hook_ref, {}).items()))


def hash_into(digest, value) -> None:
    """Add a weight, or a patch made of weights and numbers, to the digest."""
    if isinstance(value, QuantizedTensor):
        value = value.dequantize()
    if isinstance(value, Tensor):
        value = value.as_subclass(Tensor) if is_packed(value) else value  # its bytes
        digest.update(str(tuple(value.shape)).encode())
        flat = value.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // SAMPLES)]
        digest.update(sample.to("cpu", torch.float16).numpy().tobytes())
        digest.update(str(_sum_of_bits(flat)).encode())
    elif isinstance(value, WeightAdapterBase):
        hash_into(digest, value.weights)
    elif isinstance(value, (list, tuple)):
        for item in value:
            hash_into(digest, item)
    elif not callable(value):
        digest.update(str(value).encode())


def _sum_of_bits(flat: Tensor) -> int:
    """The fp16 bit patterns of all values, four at a time, added modulo 2^64.

    Any value that changes, such as one row of a token table, changes it; being exact, it is the same on every device.
    """
    half = torch.nn.functional.pad(flat.to(flat.device, torch.float16), (0, -len(flat) % 4))
    return int(half.view(torch.int64).sum())


def encoder_fingerprint(clip) -> str:
    """Fingerprint of a CLIP: its weights, the patches on them, and its clip skip.

    It does not depend on the device, nor on whether the weights are in fp16 or fp32.
    """
    digest = hashlib.sha256(base_digest(clip.patcher, UNREAD))
    for encoder in clip.cond_stage_model.children():
        if isinstance(encoder, SDClipModel):
            default, default_layer, _ = encoder.options_default
            layer = clip.layer_idx or (-1 if default == "last" else default_layer)
            layer = -1 if isinstance(layer, int) and abs(layer) > encoder.num_layers else layer  # as ComfyUI does
            digest.update(str(layer).encode())
    hash_patches(digest, clip.patcher)
    return digest.hexdigest()


def weight_type(clip) -> str:
    """The types in which a CLIP holds its matrices: fp16 and fp32 copies have one fingerprint, others their own."""
    types = {
        str(weight.dtype).removeprefix("torch.") for weight in clip.cond_stage_model.parameters() if weight.ndim > 1
    }
    return " and ".join(sorted(types))


def encoding_key(clip) -> str:
    """Hash of what else decides the embeddings of a text: a CLIP's classes, their switches, and tokenizer options.

    The same T5 weights are loaded for many model families, each with its own templates, padding and masks.
    """
    model = clip.cond_stage_model
    parts = [type(clip.tokenizer).__name__, type(model).__name__, sorted(clip.tokenizer_options.items())]
    for encoder in model.children():
        if isinstance(encoder, SDClipModel):
            parts.append(
                [
                    type(encoder).__name__,
                    *(getattr(encoder, name, None) for name in SWITCHES),
                    encoder.options_default,
                    sorted(encoder.special_tokens.items()),
                ]
            )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def model_fingerprint(model) -> str:
    """Fingerprint of a MODEL: its weights, the patches on them, and its prediction type."""
    digest = hashlib.sha256(base_digest(model))
    hash_patches(digest, model)
    sampling = model.get_model_object("model_sampling")
    digest.update(" ".join(kind.__name__ for kind in type(sampling).__mro__).encode())
    hash_into(digest, sorted(sampling.state_dict().items()))
    return digest.hexdigest()
