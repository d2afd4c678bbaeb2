"""Probe: Concept Inversion: an attack that learns a word for the concept."""

from __future__ import annotations

from comfy_api.latest import io

from ...trce_ops.attacks.inversion import TEMPLATES, InversionSettings, learn_words, random_starts
from ..inputs import setting_inputs
from ..ui.lists import lines
from .probe import BLACK_BOX, CLIP, CONDITIONING, MODEL, PICTURES, PROBE, PROMPT, REPORT, SEED, UNEDITED, Probe
from .target import Target, conditioning, one_line

TOOLTIPS = {
    "initial_word": "The word to start from: something general, not the concept itself.",
    "steps": "Steps of learning. More steps attack harder and take longer.",
    "learning_rate": "Size of a step. Raise it if the loss does not fall.",
    "batch": "Pictures in every step. A larger batch makes steadier and slower steps.",
    "starts": "How many words to learn, the first from 'initial_word', the others from random words. The one that "
    "explains the pictures best counts. A patient attacker tries several.",
    "vectors": "How many vectors the word has. More vectors attack harder.",
}
LIMITS = {
    "steps": (0, 10000),
    "learning_rate": (0.0, 10.0, 0.0001, False),
    "batch": (1, 64),
    "starts": (1, 64),
    "vectors": (1, 16),
}


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
                BLACK_BOX,
            ],
            outputs=[CONDITIONING, REPORT],
            **PROBE,
        )

    @classmethod
    def attack(cls, target: Target, prompt, templates, seed=0, black_box=False, **settings) -> tuple:
        settings, plain, sentences = InversionSettings(**settings, seed=seed), one_line(prompt), lines(templates)
        with target.open(black_box) as (denoise, encoder):
            starts = random_starts(encoder, settings)
            words = learn_words(
                denoise, encoder, target.pictures, sentences, starts, rows=denoise.at_once, progress=target.progress
            )
            word, queries = words[0], sum(word.queries for word in words)
            cost = target.cost("Concept inversion", queries)
            found = word.write(sentences[0], encoder)
            evidence = target.evidence(encoder, plain, found, seed)
        return conditioning(found), f"{cost}\n{evidence.text()}"
