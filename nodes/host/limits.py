"""The limits of an erasure on a model, one line each, for the report and the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ...trce_ops.delta.file import ErasedDelta
from ...trce_ops.text.concepts import full_width, left_out_numbers, read_as_one, unlike_prompts
from ...trce_ops.text.spelling import mentions
from .apply import maps_on_text
from .dynamic_vram import has_gradients
from .others import KEYED, put_on, ways_of_others
from .readers import find_text_readers
from .workflow import negative_texts

log = logging.getLogger(__name__)


def limits(model, delta: ErasedDelta, clip=None, concepts: str = "", graph: Mapping | None = None) -> list[str]:
    """Sentences about an erasure on MODEL. Also logs them.

    What may be known beside it: the CLIP that encodes the prompts, the text of the concepts widget, and the workflow in
    API format (graph).
    """
    readers = find_text_readers(model)
    lines = []
    if readers.row.leaks:
        lines.append(f"Not reached: {readers.row.leaks}.")
    if left := sorted(readers.streams.keys() - delta.maps.keys()):
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
    changes = patcher and (patcher.injections or patcher.weight_wrapper_patches or put_on(patcher))
    if patcher and (changes or patcher.object_patches.keys() - {*KEYED}):
        lines.append(
            "The CLIP has a LoRA loaded in bypass mode or another node's changes, which a delta cannot be checked "
            "against: after a restart, Apply Erased Delta will say that this is another text encoder. Load a LoRA with "
            "the node Load LoRA."
        )
    if patcher and delta.tuned and not has_gradients(patcher):
        lines.append(
            "Tuned against adversarial embeddings: the 'clip' was loaded by a node that does not say from which file, "
            "so that no words could be learned. Load it with one of ComfyUI's own loaders for those."
        )
    hooks = () if clip is None or not clip.apply_hooks_to_conds else clip.apply_hooks_to_conds.hooks
    if any(getattr(hook, "strength_model", 0) for hook in hooks):
        lines.append(
            "Not reached: a LoRA that the CLIP's hooks put on the model while it runs (Set CLIP Hooks). It may draw "
            "the concept again. Load a LoRA with the node Load LoRA, before the erasure."
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
    negative = negative_texts(graph)
    if named := [p.concept for p in delta.info.concepts if any(mentions(text, [p.concept]) for text in negative)]:
        lines.append(
            f"The negative prompt of this workflow names what is erased: {', '.join(named)}. Take it out there: the "
            "erased model reads it as the safe target, draws away from that, and so back towards the concept."
        )
    lines += [*unlike_prompts(concepts), *read_as_one(concepts), *left_out_numbers(concepts)]
    lines += [
        f"In 'concepts' '{typed}' was read as '{read}' in ordinary letters and spaces, which is another text to this "
        f"text encoder: type '{read}' in prompts too."
        for typed, read in full_width(concepts).items()
        if clip is not None and clip.tokenize(typed) != clip.tokenize(read)
    ]
    for line in lines:
        log.warning("%s", line)
    return lines
