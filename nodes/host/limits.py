"""The limits of an erasure on a model, one line each, for the report and the log."""

from __future__ import annotations

import logging

from ...trce_ops.delta.file import ErasedDelta
from .apply import maps_on_text
from .readers import find_text_readers

log = logging.getLogger(__name__)


def limits(model, delta: ErasedDelta, clip=None) -> list[str]:
    """Sentences about an erasure on MODEL, with the CLIP that encodes the prompts if it is known. Also logs them."""
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
            "Not reached: what a LoRA loaded in bypass mode adds, which may draw the concept again. Load it with the "
            "node Load LoRA, before the erasure."
        )
    if clip is not None and clip.patcher.injections:
        lines.append(
            "The CLIP has a LoRA loaded in bypass mode, which a delta cannot be checked against: on another day it is "
            "taken for another text encoder. Load the LoRA with the node Load LoRA."
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
    for line in lines:
        log.warning("%s", line)
    return lines
