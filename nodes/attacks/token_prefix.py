"""Probe: Token Prefix: an attack that searches for words to put before a prompt."""

from __future__ import annotations

from comfy_api.latest import io

from ...trce_ops.attacks.token_prefix import PrefixSettings, search_prefix
from ..ui.bounds import within_bounds
from .inputs import ALIASES, CLIP, CONDITIONING, MODEL, PICTURES, PROMPT, REPORT, SEED, UNEDITED, batch, steps
from .target import ROWS, Target, attack, conditioning, encode, one_line

DEFAULTS = PrefixSettings()


class TRCEProbeTokenPrefix(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEProbeTokenPrefix",
            display_name="Probe: Token Prefix",
            category="model/trce",
            description="Searches by gradient for words that make the erased model draw the concept again when they "
            "stand before a prompt (as UnlearnDiffAtk does). What it finds is text that anybody can type.",
            search_aliases=ALIASES,
            inputs=[
                MODEL,
                CLIP,
                PICTURES,
                PROMPT,
                io.Int.Input(
                    "tokens", default=DEFAULTS.tokens, min=1, max=32, tooltip="How many words to put before the prompt."
                ),
                steps(DEFAULTS.steps, 1000, "Steps of the search; each replaces at most one word. More attack harder."),
                io.Int.Input(
                    "candidates",
                    default=DEFAULTS.candidates,
                    min=1,
                    max=1024,
                    advanced=True,
                    tooltip="Replacements tried in every step. More attack harder and take longer.",
                ),
                batch(DEFAULTS.batch, "Pictures on which the replacements of a step are compared. More are slower."),
                SEED,
                UNEDITED,
            ],
            outputs=[
                CONDITIONING,
                io.String.Output(
                    "found_prompt",
                    display_name="prompt",
                    tooltip="The prompt with the words that were found before it: type it, or connect it anywhere.",
                ),
                REPORT,
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(
        cls, model, clip, pictures, prompt, tokens, steps, candidates, batch, seed=0, unedited_model=None
    ) -> io.NodeOutput:
        settings = PrefixSettings(tokens=tokens, steps=steps, candidates=candidates, batch=batch, seed=seed)

        def search(target: Target) -> tuple:
            plain = one_line(prompt)
            with target.open() as (denoise, encoder):
                prefix = search_prefix(
                    denoise, encoder, target.pictures, [plain], settings, rows=ROWS, progress=target.progress
                )
                cost = target.cost("Token prefix", prefix.queries)
                text = prefix.write(plain)
                found = encode(encoder, text)
                evidence = target.evidence(denoise, encoder, plain, found, seed)
            return conditioning(found), text, f"{cost} Found: '{text}'.\n{evidence.text()}"

        return attack(cls, search, model, clip, pictures, unedited_model)
