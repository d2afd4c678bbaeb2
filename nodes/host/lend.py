"""A MODEL and a CLIP as arguments of trce_ops.methods."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ...trce_ops.text.learned_words import NO_WORDS, LearnedWords
from .denoiser import REMEDY, tunable
from .dynamic_vram import has_gradients
from .encoders import ClipEncoder, sd3_clips, text_encoders, without_t5
from .readers import CONTEXT, POOLED, TextReaders, find_text_readers
from .soft_prompts import open_encoder
from .text_weights import metrics, text_weights


def lend(model, clip, learned: LearnedWords = NO_WORDS, remedy: str = REMEDY) -> dict:
    """The arguments of erase_with that come from MODEL and CLIP. Raises HostError when the two do not fit.

    learned: words that concepts may name. remedy: what a method that trains says about a MODEL that it cannot train.
    """
    readers = fitted(find_text_readers(model), clip)
    encoders = text_encoders(clip, readers, learned)
    context, widths = encoders["context"], {kind: encoder.width for kind, encoder in encoders.items()}
    soft = None
    if isinstance(context, ClipEncoder) and has_gradients(clip.patcher):
        soft = partial(open_encoder, clip, POOLED in readers.streams, context)
    return {
        "encoders": encoders,
        "family": readers.family,
        "space": readers.space,
        "weights": partial(text_weights, model, readers),
        "metrics": partial(metrics, model, readers, widths),
        "model": lambda resolution: tunable(model, resolution, soft, remedy),
    }


def fitted(readers: TextReaders, clip) -> TextReaders:
    """The readers for what this CLIP gives: SD3 without its T5 reads CLIP's channels, and zeros beside them."""
    if not (readers.row.clip_rows and without_t5(clip) and CONTEXT in readers.streams):
        return readers
    width = ClipEncoder(clip, sd3_clips(clip)).width
    return replace(readers, streams={**readers.streams, CONTEXT: replace(readers.streams[CONTEXT], width=width)})
