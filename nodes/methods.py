"""A MODEL and a CLIP as trce_ops.methods wants them."""

from __future__ import annotations

from functools import partial

import comfy.lora
import torch
from torch import Tensor

from .denoiser import tunable
from .encoders import text_encoders
from .exchange import base_weights
from .readers import TextReaders, find_text_readers


@torch.no_grad()
def text_weights(model, readers: TextReaders) -> dict[str, dict[str, Tensor]]:
    """The weights of MODEL that read its text, with its LoRAs, by kind of text and module; float32, on the CPU."""
    base = base_weights(model)

    def weight(key: str) -> Tensor:
        W = base(key).to("cpu", torch.float32, copy=True)
        return comfy.lora.calculate_weight(model.patches.get(key, []), W, key)

    return {
        kind: {key.removesuffix(".weight"): weight(key) for key in stream.keys}
        for kind, stream in readers.streams.items()
    }


def lend(model, clip, resolution: int | None = None) -> dict:
    """The arguments of erase_with that MODEL and CLIP decide. Raises HostError where the two do not fit.

    resolution: of the pictures that methods which train learn from, in pixels; None for what their settings say.
    """
    readers = find_text_readers(model)
    encoders = text_encoders(clip, readers)
    return {
        "encoder": encoders.pop("context"),
        "streams": encoders,
        "family": readers.family,
        "space": readers.space,
        "weights": partial(text_weights, model, readers),
        "model": lambda asked: tunable(model, resolution or asked),
    }
