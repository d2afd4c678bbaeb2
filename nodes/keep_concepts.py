"""Keep Concepts: the list of what must stay, from a preset, the user, a language model and everyday captions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from comfy_api.latest import io

from ..trce_ops.lists.extend import widen_keep
from ..trce_ops.lists.llm_answer import not_understood, read_answer
from ..trce_ops.lists.neighbours import nearest
from ..trce_ops.lists.presets import KEEP_PRESETS
from ..trce_ops.progress import Progress
from ..trce_ops.text.captions import BENIGN_CAPTIONS
from ..trce_ops.text.concepts import MAX_LINES, format_keep, parse_concepts, parse_keep
from ..trce_ops.text.embeddings import TextEncoder
from ..trce_ops.text.spelling import mentions
from .host.encoders import nearness_encoder
from .host.progress import node_progress, show_text
from .inputs import KEEP, NO_PRESET, linked_text, output, preset_input
from .ui.bounds import within_bounds
from .ui.lists import listed

log = logging.getLogger(__name__)


class TRCEKeepConcepts(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEKeepConcepts",
            display_name="Keep Concepts",
            category="model/trce",
            description="Puts together the list of what must stay as it is, for TRCE Erase: a preset, your own lines, "
            "captions from a language model, and the everyday captions nearest to what is erased. Lines that mention "
            "what is erased are left out.",
            search_aliases=["keep list", "preserve", "retain", "keep presets"],
            inputs=[
                preset_input(
                    KEEP_PRESETS,
                    "A list to start from. Its lines come first, then yours. The whole list is shown on the node.",
                ),
                KEEP,
                linked_text(
                    "generated",
                    "Captions from a language model: connect Generate Text. Read in the report what was added.",
                ),
                linked_text(
                    "concepts",
                    "What is erased: connect Erase Concepts, or the text that TRCE Erase gets. Lines that "
                    "mention it are left out, because they would preserve what should go.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Connect the text encoder that encodes your prompts, and 'concepts' too, to add the "
                    "everyday captions that are nearest to what is erased.",
                ),
                io.Int.Input(
                    "neighbours",
                    default=10,
                    min=0,
                    max=100,
                    optional=True,
                    tooltip="How many everyday captions to add at most, with 'clip' and 'concepts' connected. More "
                    "captions preserve more and weaken the erasure.",
                ),
            ],
            outputs=[
                output(
                    io.String,
                    "keep_list",
                    "The whole list, one caption per line: connect it to 'keep' of TRCE Erase.",
                    shown="keep",
                ),
                output(io.String, "report", "The whole list, where each line comes from, and what was left out."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(
        cls, preset=NO_PRESET, keep="", generated=None, concepts=None, clip=None, neighbours=10
    ) -> io.NodeOutput:
        node_id, answer = cls.hidden.unique_id, generated or ""
        chosen = parse_keep(KEEP_PRESETS.get(preset, ""))
        written = tuple(line for line in parse_keep(keep) if line not in chosen)
        both = (*chosen, *written)
        erased = [pair.concept for pair in parse_concepts(concepts or "", optional=True)]
        items = [item.text for item in read_answer(answer, captions=True)]
        kept, synonyms = widen_keep(both, items, erased)
        near = ()
        if clip is not None and erased and neighbours:
            captions = [caption for caption in BENIGN_CAPTIONS if not mentions(caption, erased)]
            progress = partial(node_progress(node_id), "Captions")
            ranked = _nearest_to_any(erased, captions, nearness_encoder(clip), progress)
            near = widen_keep((*kept, *synonyms), ranked[:neighbours], erased)[1]
        left_out = [line for line in (*both, *items) if mentions(line, erased)]
        lines = [f"{len(kept) + len(synonyms) + len(near)} captions to keep"]
        lines += listed(f"From the preset '{preset}'", [line for line in kept if line in chosen])
        lines += listed("Written", [line for line in kept if line not in chosen])
        lines += listed("From the language model", synonyms)
        lines += listed("Everyday captions similar to what is erased", near)
        lines += listed("Left out because they mention what is erased", left_out)
        lines += listed("Not understood in 'generated', and left out", not_understood(answer, captions=True))
        if len(kept) + len(synonyms) + len(near) == MAX_LINES:
            lines.append(f"{MAX_LINES} captions are the most that fit; what was found after them is left out.")
        report = "\n".join(lines)
        log.info("%s", report)
        show_text(node_id, report)
        return io.NodeOutput(format_keep((*kept, *synonyms, *near)), report, ui={"text": [report]})


def _nearest_to_any(
    concepts: Sequence[str], captions: Sequence[str], encoder: TextEncoder, progress: Progress
) -> list[str]:
    """The captions, nearest to any of the concepts first."""
    found = nearest(concepts, captions, encoder, len(captions), progress=progress)
    best = {}
    for near in found:
        for caption, similarity in near:
            best[caption] = max(similarity, best.get(caption, similarity))
    return sorted(best, key=best.__getitem__, reverse=True)
