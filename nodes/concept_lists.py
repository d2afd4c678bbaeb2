"""Erase Concepts and Keep Concepts: lists to start from, to edit, and to make longer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from comfy_api.latest import io

from ..trce_ops.lists.extend import neighbour_pairs, target_of, widen, widen_keep
from ..trce_ops.lists.llm_answer import read_answer
from ..trce_ops.lists.neighbours import nearest
from ..trce_ops.lists.presets import ERASE_PRESETS, KEEP_PRESETS
from ..trce_ops.lists.words import WORDS
from ..trce_ops.progress import Progress
from ..trce_ops.text.captions import BENIGN_CAPTIONS
from ..trce_ops.text.concepts import ConceptError, ConceptPair, format_concepts, parse_concepts, parse_keep
from ..trce_ops.text.embeddings import TextEncoder
from ..trce_ops.text.prompts import mentions
from .host.encoders import nearness_encoder
from .host.progress import node_progress, show_text
from .ui.bounds import within_bounds

OWN = "my own list"


def _preset(presets: Mapping[str, str], fills: str, tooltip: str) -> io.Combo.Input:
    """A combo whose choice nodes/web/presets.js writes into the widget `fills`, as text to edit."""
    return io.Combo.Input(
        "preset",
        options=[OWN, *presets],
        default=OWN,
        tooltip=tooltip,
        extra_dict={"fills": fills, "lists": dict(presets)},
    )


def _text(written: str, preset: str, presets: Mapping[str, str]) -> str:
    """What counts: what is written, or the preset's list where nothing is."""
    return written if written.strip() else presets.get(preset, "")


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    return [f"{title} ({len(lines)}):", *(f"  {line}" for line in lines)] if lines else []


class TRCEEraseConcepts(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEEraseConcepts",
            display_name="Erase Concepts",
            category="model/trce",
            description="Writes the list of what to erase, for TRCE Erase: from a preset that you can read and edit, "
            "from your own lines, from synonyms that a language model wrote, and from the neighbours of your concepts "
            "in the text encoder.",
            search_aliases=["concept list", "erase presets", "synonyms", "unlearn", "NSFW list", "concept presets"],
            inputs=[
                _preset(
                    ERASE_PRESETS,
                    "concepts",
                    "A list to start from. Choosing one writes it into 'concepts', where you can change every line; "
                    "lines that you wrote yourself stay. Without a browser it is used while 'concepts' is empty.",
                ),
                io.String.Input(
                    "concepts",
                    multiline=True,
                    default="",
                    placeholder="Van Gogh -> a painting\na gun | a pistol -> an umbrella\nblood\n# one concept per "
                    "line; alone = nothing in its place",
                    tooltip="What to erase, one concept per line: 'concept -> safe' draws the safe thing in its place, "
                    "'concept' alone aims at the empty prompt. A bar between names makes them one concept with one "
                    "safe target. '#' starts a comment.",
                ),
                io.String.Input(
                    "generated",
                    force_input=True,
                    optional=True,
                    tooltip="A list of synonyms written by a language model: connect Generate Text. Numbers, bullets, "
                    "tables, JSON and talk around the list are understood. Read what it added in the report.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Connect the text encoder that your prompts go through, and the words that it holds to be "
                    "nearest to your concepts are erased with them.",
                ),
                io.Int.Input(
                    "neighbours",
                    default=3,
                    min=0,
                    max=50,
                    optional=True,
                    tooltip="How many neighbours to add for every concept at most, with 'clip' connected. More erase "
                    "wider, and take related things with them.",
                ),
                io.Float.Input(
                    "min_likeness",
                    default=0.5,
                    min=-1.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="How alike a neighbour has to be, with 'clip' connected: 1 is the same, 0 has nothing in "
                    "common. The report gives the figure of each; raise it when it lists what should stay.",
                ),
                io.String.Input(
                    "keep",
                    force_input=True,
                    optional=True,
                    tooltip="What must stay: connect Keep Concepts. Nothing of it is added to the list, however near "
                    "it is.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "concepts_list",
                    display_name="concepts",
                    tooltip="The whole list, one concept per line: connect it to 'concepts' of TRCE Erase.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What is on the list and where it comes from, to read before you share the erasure.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(
        cls, preset, concepts, generated=None, clip=None, neighbours=3, min_likeness=0.5, keep=None
    ) -> io.NodeOutput:
        node_id = cls.hidden.unique_id
        text = _text(concepts, preset, ERASE_PRESETS)
        answered = generated and generated.strip()
        pairs = () if answered and not text.strip() else parse_concepts(text)
        kept = parse_keep(keep or "")
        items = read_answer(generated or "", [pair.concept for pair in pairs])
        synonyms = widen(pairs, (ConceptPair(item.text, target_of(item, pairs)) for item in items), kept)
        named = (*pairs, *synonyms)
        if not named:
            raise ConceptError("'concepts' is empty and there is no list in 'generated'; write one concept per line.")
        likeness = {}
        if clip is not None and neighbours:
            own = pairs or synonyms
            found = nearest(
                [pair.concept for pair in own],
                WORDS,
                nearness_encoder(clip),
                neighbours,
                min_likeness,
                partial(node_progress(node_id), "Neighbours"),
            )
            likeness = neighbour_pairs(own, found)
        near = widen(named, likeness, kept)
        lines = [f"{len(named) + len(near)} concepts to erase"]
        lines += _listed("Written", format_concepts(pairs).splitlines())
        lines += _listed("From the language model", format_concepts(synonyms).splitlines())
        lines += _listed("Neighbours", [f"{format_concepts([pair])}  [{likeness[pair]:.2f}]" for pair in near])
        if answered and not synonyms:
            lines.append("Nothing new was found in 'generated'.")
        report = "\n".join(lines)
        show_text(node_id, report)
        return io.NodeOutput(format_concepts((*named, *near)), report, ui={"text": [report]})


class TRCEKeepConcepts(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEKeepConcepts",
            display_name="Keep Concepts",
            category="model/trce",
            description="Writes the list of what must stay as it is, for TRCE Erase: from a preset that you can read "
            "and edit, from your own lines, from a language model, and from everyday captions that lie near to what "
            "is erased. Lines that name what is erased are left out.",
            search_aliases=["keep list", "preserve", "retain", "keep presets"],
            inputs=[
                _preset(
                    KEEP_PRESETS,
                    "keep",
                    "A list to start from. Choosing one writes it into 'keep', where you can change every line; lines "
                    "that you wrote yourself stay. Without a browser it is used while 'keep' is empty.",
                ),
                io.String.Input(
                    "keep",
                    multiline=True,
                    default="",
                    placeholder="an umbrella\na water pistol\n# one caption per line",
                    tooltip="What must stay as it is, one caption per line. Name the things close to the concept; "
                    "everyday things are kept anyway. '#' starts a comment.",
                ),
                io.String.Input(
                    "generated",
                    force_input=True,
                    optional=True,
                    tooltip="A list of captions written by a language model: connect Generate Text. Numbers, bullets, "
                    "tables, JSON and talk around the list are understood. Read what it added in the report.",
                ),
                io.String.Input(
                    "concepts",
                    force_input=True,
                    optional=True,
                    tooltip="What is erased: connect Erase Concepts, or the text that TRCE Erase gets. Lines that "
                    "mention it are left out, for they would keep what is to go.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Connect the text encoder that your prompts go through, and 'concepts' too, to add the "
                    "everyday captions that lie nearest to what is erased.",
                ),
                io.Int.Input(
                    "neighbours",
                    default=10,
                    min=0,
                    max=100,
                    optional=True,
                    tooltip="How many everyday captions to add at most, with 'clip' and 'concepts' connected. More "
                    "keep more and weaken the erasure.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "keep_list",
                    display_name="keep",
                    tooltip="The whole list, one caption per line: connect it to 'keep' of TRCE Erase.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What is on the list, where it comes from, and what was left out.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(cls, preset, keep, generated=None, concepts=None, clip=None, neighbours=10) -> io.NodeOutput:
        node_id = cls.hidden.unique_id
        written = parse_keep(_text(keep, preset, KEEP_PRESETS))
        erased = [pair.concept for pair in parse_concepts(concepts)] if concepts and concepts.strip() else []
        items = [item.text for item in read_answer(generated or "")]
        kept, synonyms = widen_keep(written, items, erased)
        near = ()
        if clip is not None and erased and neighbours:
            captions = [caption for caption in BENIGN_CAPTIONS if not mentions(caption, erased)]
            progress = partial(node_progress(node_id), "Captions")
            ranked = _nearest_to_any(erased, captions, nearness_encoder(clip), progress)
            near = widen_keep((*kept, *synonyms), ranked[:neighbours], erased)[1]
        left_out = [line for line in (*written, *items) if mentions(line, erased)]
        lines = [f"{len(kept) + len(synonyms) + len(near)} captions to keep"]
        lines += _listed("Written", kept)
        lines += _listed("From the language model", synonyms)
        lines += _listed("Everyday captions near to what is erased", near)
        lines += _listed("Left out, for they name what is erased", left_out)
        report = "\n".join(lines)
        show_text(node_id, report)
        return io.NodeOutput("\n".join((*kept, *synonyms, *near)), report, ui={"text": [report]})


def _nearest_to_any(
    concepts: Sequence[str], captions: Sequence[str], encoder: TextEncoder, progress: Progress
) -> list[str]:
    """The captions, the one nearest to any of the concepts first."""
    found = nearest(concepts, captions, encoder, len(captions), progress=progress)
    best = {}
    for near in found:
        for caption, likeness in near:
            best[caption] = max(likeness, best.get(caption, likeness))
    return sorted(best, key=best.__getitem__, reverse=True)
