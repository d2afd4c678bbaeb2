"""Probe: Concept Direction: an attack that adds the concept's direction to a harmless prompt."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ...trce_ops.attacks.ring_a_bell import add_direction, concept_direction
from ...trce_ops.text.concepts import parse_concepts
from ...trce_ops.text.prompts import expand, sentences
from ...trce_ops.tuning.text_batch import Texts
from ..ui.bounds import within_bounds
from .inputs import ALIASES, CLIP, CONDITIONING, MODEL, REPORT, SEED, UNEDITED
from .target import Target, attack, conditioning, encode, one_line


class TRCEProbeRingABell(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEProbeRingABell",
            display_name="Probe: Concept Direction (Ring-A-Bell)",
            category="model/trce",
            description="Adds the direction of the concept in the text embedding to a harmless prompt, to see whether "
            "the erased model still draws the concept. It needs no search and no training, so it takes seconds.",
            search_aliases=ALIASES,
            inputs=[
                MODEL,
                CLIP,
                io.String.Input(
                    "concepts",
                    multiline=True,
                    default="",
                    placeholder="a star -> a circle\na pentagram -> a circle",
                    tooltip="'concept -> something harmless', one per line. The direction is the mean difference "
                    "between the two, in everyday sentences.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    placeholder="a photo of a circle",
                    tooltip="The harmless prompt that the direction is added to.",
                ),
                io.Float.Input(
                    "scale",
                    default=3.0,
                    min=-20.0,
                    max=20.0,
                    step=0.1,
                    tooltip="How much of the direction is added. Raise it when nothing comes back from the unedited "
                    "model either; too much makes noise.",
                ),
                SEED,
                io.Latent.Input(
                    "pictures",
                    optional=True,
                    tooltip="Pictures of the concept, as latents. With them, the report says how much of the pictures "
                    "the attack explains.",
                ),
                UNEDITED,
            ],
            outputs=[CONDITIONING, REPORT],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(cls, model, clip, concepts, prompt, scale, seed=0, pictures=None, unedited_model=None) -> io.NodeOutput:
        def ring(target: Target) -> tuple:
            pairs = parse_concepts(concepts)
            names = [pair.concept for pair in pairs]
            prompts = expand(pairs, sentences(names, True))
            with target.open() as (denoise, encoder), torch.no_grad():
                batches = []
                for number, pair in enumerate(prompts):
                    target.progress("Concept direction", number, len(prompts))
                    batches.append([encode(encoder, text) for text in (pair.source, pair.target)])
                direction = concept_direction(*(Texts.cat(side) for side in zip(*batches)))
                benign = encode(encoder, one_line(prompt))
                found = add_direction(benign, direction, scale)
                share = (scale * direction.sequence).norm() / benign.sequence.norm()
                report = f"{target.cost('Concept direction', 0)} It adds {share:.0%} of the prompt's own length."
                if pictures is not None:
                    evidence = target.evidence(denoise, encoder, prompts[0].source, found, seed)
                    report += f"\n{evidence.text()}"
            return conditioning(found), report

        return attack(cls, ring, model, clip, pictures, unedited_model)
