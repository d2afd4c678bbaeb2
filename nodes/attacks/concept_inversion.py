"""Probe: Concept Inversion: an attack that learns a word for the concept."""

from __future__ import annotations

from comfy_api.latest import io

from ...trce_ops.attacks.inversion import TEMPLATES, InversionSettings, learn_word
from ..ui.bounds import within_bounds
from .inputs import ALIASES, CLIP, CONDITIONING, MODEL, PICTURES, PROMPT, REPORT, SEED, UNEDITED, batch, steps
from .target import ROWS, Target, attack, conditioning, lines, one_line

DEFAULTS = InversionSettings()


class TRCEProbeConceptInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEProbeConceptInversion",
            display_name="Probe: Concept Inversion",
            category="model/trce",
            description="Learns a new word for the concept from pictures of it (textual inversion). If the erased "
            "model draws the concept for that word, the concept is still in the model and only its name was removed.",
            search_aliases=ALIASES,
            inputs=[
                MODEL,
                CLIP,
                PICTURES,
                PROMPT,
                io.String.Input(
                    "templates",
                    multiline=True,
                    default="\n".join(TEMPLATES),
                    tooltip="Prompts to learn the word in, one per line, with '*' in the place of the word. The first "
                    "one becomes the conditioning.",
                ),
                io.String.Input(
                    "initial_word",
                    default=DEFAULTS.initial_word,
                    tooltip="The word to start from: something general, not the concept itself.",
                ),
                steps(DEFAULTS.steps, 10000, "Steps of learning. More attack harder and take longer."),
                io.Float.Input(
                    "learning_rate",
                    default=DEFAULTS.learning_rate,
                    min=0.0,
                    max=10.0,
                    step=0.0001,
                    round=False,
                    advanced=True,
                    tooltip="Size of a step. Raise it when the loss does not fall.",
                ),
                batch(DEFAULTS.batch, "Pictures in every step. More make steadier and slower steps."),
                SEED,
                UNEDITED,
            ],
            outputs=[CONDITIONING, REPORT],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(
        cls,
        model,
        clip,
        pictures,
        prompt,
        templates,
        initial_word,
        steps,
        learning_rate,
        batch,
        seed=0,
        unedited_model=None,
    ) -> io.NodeOutput:
        settings = InversionSettings(steps, learning_rate, batch, initial_word, seed)

        def invert_concept(target: Target) -> tuple:
            plain = one_line(prompt)
            with target.open() as (denoise, encoder):
                word = learn_word(
                    denoise, encoder, target.pictures, lines(templates), settings, rows=ROWS, progress=target.progress
                )
                cost = target.cost("Concept inversion", word.queries)
                found = word.write(lines(templates)[0], encoder)
                evidence = target.evidence(denoise, encoder, plain, found, seed)
            return conditioning(found), f"{cost}\n{evidence.text()}"

        return attack(cls, invert_concept, model, clip, pictures, unedited_model)
