"""Erase Concepts: the list of what to erase, from a preset, the user, a language model and the text encoder."""

from __future__ import annotations

import logging
from functools import partial

from comfy_api.latest import io

from ..trce_ops.lists.extend import neighbour_pairs, target_of, widen
from ..trce_ops.lists.llm_answer import not_understood, read_answer
from ..trce_ops.lists.neighbours import nearest
from ..trce_ops.lists.presets import ERASE_PRESETS
from ..trce_ops.lists.words import WORDS
from ..trce_ops.text.concepts import (
    MAX_LINES,
    ConceptError,
    ConceptPair,
    format_concepts,
    parse_concepts,
    parse_keep,
)
from .host.encoders import nearness_encoder
from .host.progress import node_progress, show_text
from .inputs import NO_PRESET, concepts_input, linked_text, output, preset_input, setting_inputs
from .ui.bounds import within_bounds
from .ui.lists import listed

log = logging.getLogger(__name__)


class TRCEEraseConcepts(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEEraseConcepts",
            display_name="Erase Concepts",
            category="model/trce",
            description="Puts together the list of what to erase, for TRCE Erase: a preset, your own lines, synonyms "
            "from a language model, and the words that the text encoder places nearest to your concepts.",
            search_aliases=["concept list", "erase presets", "synonyms", "unlearn", "NSFW list", "concept presets"],
            inputs=[
                preset_input(
                    ERASE_PRESETS,
                    "A list to start from. Its lines come first, then yours. To change a line of the preset, write the "
                    "same concept with another safe target into 'concepts'. The whole list is shown on the node.",
                ),
                concepts_input(optional=True),
                linked_text(
                    "generated",
                    "Synonyms from a language model: connect Generate Text. They get the safe target of the "
                    "concept that they belong to. Read in the report what was added.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Connect the text encoder that encodes your prompts, to also erase the words that it "
                    "places nearest to your concepts.",
                ),
                *setting_inputs(
                    {"similar_words": 3, "min_similarity": 0.5},
                    {
                        "similar_words": "How many similar words to erase with each concept at most, with 'clip' "
                        "connected. More of them erase more broadly and may damage related things.",
                        "min_similarity": "Least similarity of such a word, with 'clip' connected: 1 is identical, 0 "
                        "is unrelated. The report lists the figure of each; raise it if the report lists something "
                        "that should stay.",
                    },
                    {"similar_words": (0, 50), "min_similarity": (-1.0, 1.0, 0.05)},
                    advanced=("min_similarity",),
                ),
                linked_text(
                    "keep",
                    "What must stay: connect Keep Concepts. No line of it is added to the list, even if it is similar.",
                ),
            ],
            outputs=[
                output(
                    io.String,
                    "concepts_list",
                    "The whole list, one concept per line: connect it to 'concepts' of TRCE Erase.",
                    shown="concepts",
                ),
                output(io.String, "report", "The whole list, and where each line comes from."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(
        cls, preset=NO_PRESET, concepts="", generated=None, clip=None, similar_words=3, min_similarity=0.5, keep=None
    ) -> io.NodeOutput:
        node_id, answer = cls.hidden.unique_id, generated or ""
        written = parse_concepts(concepts, optional=True)
        changed = {pair.concept.lower() for pair in written}
        from_preset = parse_concepts(ERASE_PRESETS.get(preset, ""), optional=True)
        chosen = tuple(pair for pair in from_preset if pair.concept.lower() not in changed)
        pairs = (*chosen, *written)
        kept = parse_keep(keep or "")
        names = [pair.concept for pair in pairs]
        items = read_answer(answer, names)
        synonyms = widen(pairs, (ConceptPair(item.text, target_of(item, pairs)) for item in items), kept)
        named = (*pairs, *synonyms)
        if not named:
            raise ConceptError(
                "'concepts' is empty, 'preset' is 'none' and there is no list in 'generated'; write one concept per "
                "line."
            )
        similarity = {}
        if clip is not None and similar_words:
            own, progress = pairs or synonyms, partial(node_progress(node_id), "Similar words")
            texts = [pair.concept for pair in own]
            found = nearest(texts, WORDS, nearness_encoder(clip), similar_words, min_similarity, progress)
            similarity = neighbour_pairs(own, found)
        near = widen(named, similarity, kept)
        lines = [f"{len(named) + len(near)} concepts to erase"]
        lines += listed(f"From the preset '{preset}'", format_concepts(chosen).splitlines())
        lines += listed("Written", format_concepts(written).splitlines())
        lines += listed("From the language model", format_concepts(synonyms).splitlines())
        lines += listed("Similar words", [f"{format_concepts([pair])}  [{similarity[pair]:.2f}]" for pair in near])
        lines += listed("Not understood in 'generated', and left out", not_understood(answer, names))
        if len(named) + len(near) == MAX_LINES:
            lines.append(f"{MAX_LINES} concepts are the most that fit; what was found after them is left out.")
        elif answer.strip() and not synonyms:
            lines.append("Nothing new was found in 'generated'.")
        report = "\n".join(lines)
        log.info("%s", report)
        show_text(node_id, report)
        return io.NodeOutput(format_concepts((*named, *near)), report, ui={"text": [report]})
