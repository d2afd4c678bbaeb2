"""Probe: Concept Inversion: an attack that learns a word for the concept."""

from __future__ import annotations

from comfy_api.latest import io

from ...trce_ops.attacks.inversion import TEMPLATES, InversionSettings, learn_word
from ..inputs import setting_inputs
from ..ui.lists import lines
from .probe import CLIP, CONDITIONING, MODEL, PICTURES, PROBE, PROMPT, REPORT, SEED, UNEDITED, Probe
from .target import ROWS, Target, conditioning, one_line

TOOLTIPS = {
    "initial_word": "The word to start from: something general, not the concept itself.",
    "steps": "Steps of learning. More steps attack harder and take longer.",
    "learning_rate": "Size of a step. Raise it if the loss does not fall.",
    "batch": "Pictures in every step. A larger batch makes steadier and slower steps.",
}
LIMITS = {"steps": (0, 10000), "learning_rate": (0.0, 10.0, 0.0001, False), "batch": (1, 64)}


class TRCEProbeConceptInversion(Probe, io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEProbeConceptInversion",
            display_name="Probe: Concept Inversion",
            description="Learns a new word for the concept from pictures of it (textual inversion). If the erased "
            "model draws the concept for that word, the concept is still in the model and only its name was removed.",
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
                *setting_inputs(vars(InversionSettings()), TOOLTIPS, LIMITS, advanced=("learning_rate", "batch")),
                SEED,
                UNEDITED,
            ],
            outputs=[CONDITIONING, REPORT],
            **PROBE,
        )

    @classmethod
    def attack(cls, target: Target, prompt, templates, seed=0, **settings) -> tuple:
        settings, plain, sentences = InversionSettings(**settings, seed=seed), one_line(prompt), lines(templates)
        with target.open() as (denoise, encoder):
            word = learn_word(
                denoise, encoder, target.pictures, sentences, settings, rows=ROWS, progress=target.progress
            )
            cost = target.cost("Concept inversion", word.queries)
            found = word.write(sentences[0], encoder)
            evidence = target.evidence(denoise, encoder, plain, found, seed)
        return conditioning(found), f"{cost}\n{evidence.text()}"
