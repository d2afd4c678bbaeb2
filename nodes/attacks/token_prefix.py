"""Probe: Token Prefix: an attack that searches for words to put before a prompt."""

from __future__ import annotations

from comfy_api.latest import io

from ...trce_ops.attacks.token_prefix import PrefixSettings, search_prefix
from ..inputs import output, setting_inputs
from .probe import BLACK_BOX, CLIP, CONDITIONING, MODEL, PICTURES, PROBE, PROMPT, REPORT, SEED, UNEDITED, Probe
from .target import Target, conditioning, encode, one_line

TOOLTIPS = {
    "tokens": "How many words to put before the prompt.",
    "steps": "Steps of the search; each replaces at most one word. More steps attack harder.",
    "candidates": "Replacements tried in every step. More candidates attack harder and take longer.",
    "batch": "Pictures on which the replacements of a step are compared. More pictures are slower.",
}
LIMITS = {"tokens": (1, 32), "steps": (0, 1000), "candidates": (1, 1024), "batch": (1, 64)}


class TRCEProbeTokenPrefix(Probe, io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEProbeTokenPrefix",
            display_name="Probe: Token Prefix",
            description="Searches by gradient for words that make the erased model draw the concept again when they "
            "stand before a prompt (as UnlearnDiffAtk does). What it finds is text that anybody can type.",
            inputs=[
                MODEL,
                CLIP,
                PICTURES,
                PROMPT,
                *setting_inputs(vars(PrefixSettings()), TOOLTIPS, LIMITS, advanced=("candidates", "batch")),
                SEED,
                UNEDITED,
                BLACK_BOX,
            ],
            outputs=[
                CONDITIONING,
                output(
                    io.String,
                    "found_prompt",
                    "The prompt with the words that were found before it: type it, or connect it anywhere.",
                    shown="prompt",
                ),
                REPORT,
            ],
            **PROBE,
        )

    @classmethod
    def attack(cls, target: Target, prompt, seed=0, black_box=False, **settings) -> tuple:
        settings, plain = PrefixSettings(**settings, seed=seed), one_line(prompt)
        with target.open(black_box) as (denoise, encoder):
            prefix = search_prefix(
                denoise, encoder, target.pictures, [plain], settings, rows=denoise.at_once, progress=target.progress
            )
            cost, text = target.cost("Token prefix", prefix.queries), prefix.write(plain)
            found = encode(encoder, text)
            evidence = target.evidence(encoder, plain, found, seed)
        return conditioning(found), text, f"{cost} Found: '{text}'.\n{evidence.text()}"
