"""The arguments of trce_ops.methods that come from a MODEL and a CLIP."""

from __future__ import annotations

from functools import partial

from .denoiser import tunable
from .encoders import text_encoders
from .readers import find_text_readers
from .weights import metrics, text_weights


def lend(model, clip, resolution: int | None = None) -> dict:
    """The arguments of erase_with that MODEL and CLIP decide. Raises HostError if the two do not fit.

    resolution: of the pictures to train on, in pixels; None: as in the settings of the method.
    """
    readers = find_text_readers(model)
    encoders = text_encoders(clip, readers)
    return {
        "encoder": encoders.pop("context"),
        "streams": encoders,
        "family": readers.family,
        "space": readers.space,
        "weights": partial(text_weights, model, readers),
        "metrics": lambda: metrics(model, readers),
        "model": lambda asked: tunable(model, resolution or asked),
    }
