"""The weights of a MODEL that read its text as numbers, their metric, and what a delta makes of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import comfy.lora
import torch
from torch import Tensor

from ...trce_ops.closed_form.metric import gram
from ...trce_ops.delta.file import ErasedDelta
from .apply import apply_delta, maps_on_text
from .errors import HostError
from .readers import CLIP_ROWS, CONTEXT, TextReaders, find_text_readers
from .weights import ModelWeights

log = logging.getLogger(__name__)

WIDEST = 4096  # d up to which G is computed: inverting it takes d^3 steps, minutes on a CPU for the widest encoders


def _float(W: Tensor) -> Tensor:
    return W.to("cpu", torch.float32, copy=True)


@torch.no_grad()
def text_weights(model, readers: TextReaders) -> dict[str, dict[str, Tensor]]:
    """The weights that read the text, by kind of text and module; float32, on the CPU."""
    weights = ModelWeights(model)
    return {
        kind: {key.removesuffix(".weight"): _float(weights.patched(key)) for key in stream.keys}
        for kind, stream in readers.streams.items()
    }


@torch.no_grad()
def metrics(model, readers: TextReaders, widths: Mapping[str, int]) -> dict[str, Tensor | str]:
    """By kind of text, how strongly MODEL responds to each of its directions (G (d, d) of closed_form/metric.py), or
    the reason why that cannot be computed. widths: d by kind of text."""
    weights, found = ModelWeights(model), {}
    for kind, width in widths.items():
        # The context's weights read CLIP's rows too, by their first columns
        stream = readers.streams.get(CONTEXT if kind == CLIP_ROWS else kind)
        try:
            found[kind] = _metric(weights, stream.keys if stream else (), width)
        except HostError as error:
            found[kind] = str(error)
            log.warning("No metric for the %s text: %s", kind, error)
    return found


def _metric(weights: ModelWeights, keys: Sequence[str], width: int) -> Tensor:  # (width, width)
    if width > WIDEST:
        raise HostError(f"its width {width} is more than {WIDEST}, which would take minutes.")
    if not keys:
        raise HostError("no weight of its own reads it.")
    G = gram(map(weights.patched, keys), len(keys), width)
    if not G.isfinite().all():
        raise HostError("the weights that read it hold NaN or Inf.")
    return G


def changed_weights(model, delta: ErasedDelta) -> Iterator[tuple[str, Tensor, Tensor, int, int]]:
    """(parameter, W, W', done, total) for every weight that the delta changes, with the LoRAs of MODEL; in float64.

    W and W' are computed by ComfyUI's own patching. Raises HostError for a delta that does not fit, and for a map that
    no weights can hold: the others alone would not erase.
    """
    erased, weights, readers = apply_delta(model, delta, 1.0), ModelWeights(model), find_text_readers(model)
    if maps_on_text(readers, delta):
        raise HostError(
            f"Weights cannot hold this erasure, because a {readers.family} model takes the map of its tokens on the "
            "conditioning. Use Save Erased Delta, and Apply Erased Delta where the model is loaded."
        )
    before = {key: model.patches.get(key, []) for key in erased.patches}
    added = {key: patches[len(before[key]) :] for key, patches in erased.patches.items()}
    added = {key: patches for key, patches in added.items() if patches}
    for done, (key, patches) in enumerate(added.items()):
        W = weights.base(key).to("cpu", torch.float64, copy=True)
        W = comfy.lora.calculate_weight(before[key], W, key, torch.float64)
        yield key, W, comfy.lora.calculate_weight(patches, W.clone(), key, torch.float64), done, len(added)
