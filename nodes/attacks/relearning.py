"""Probe: Relearning: how soon does a LoRA on a few pictures bring the concept back?"""

from __future__ import annotations

from comfy_api.latest import io

from ...trce_ops.attacks.evidence import BACK, denoising_loss
from ...trce_ops.attacks.relearning import RelearnSettings, back_after, relearn, with_lora
from ..host.apply import add_patches, tuned_patches
from ..inputs import output, setting_inputs
from .probe import CLIP, MODEL, PICTURES, PROBE, PROMPT, REPORT, SEED, UNEDITED, Probe
from .target import Target, encode, one_line

TOOLTIPS = {
    "steps": "Steps of training the LoRA.",
    "every": "Steps between two looks at how much of the concept is back.",
    "rank": "Rank of the LoRA, which is on all attention.",
    "learning_rate": "Size of a step. Raise it if nothing changes.",
    "batch": "Pictures in every step.",
}
LIMITS = {
    "steps": (1, 10000),
    "every": (1, 1000),
    "rank": (1, 128),
    "learning_rate": (0.0, 10.0, 0.0001, False),
    "batch": (1, 64),
}


class TRCEProbeRelearning(Probe, io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEProbeRelearning",
            display_name="Probe: Relearning",
            description="Trains a small LoRA on half of your pictures of the concept, with the erased model, and looks "
            "at the other half after every few steps. If a handful of steps brings the concept back, it was still in "
            "the weights.",
            inputs=[
                MODEL,
                CLIP,
                PICTURES,
                PROMPT,
                *setting_inputs(vars(RelearnSettings()), TOOLTIPS, LIMITS, advanced=("rank", "learning_rate", "batch")),
                SEED,
                UNEDITED,
            ],
            outputs=[
                output(io.Model, "relearned_model", "The erased model with the LoRA after the last step."),
                REPORT,
            ],
            **PROBE,
        )

    @classmethod
    def attack(cls, target: Target, prompt, seed=0, **settings) -> tuple:
        settings, plain = RelearnSettings(**settings, seed=seed), one_line(prompt)
        half = (len(target.pictures) + 1) // 2
        shown, others = target.pictures[:half], target.pictures[half:]
        others = others if len(others) else shown
        with target.open() as (denoise, encoder):
            texts = [encode(encoder, text) for text in ("", plain)]
            found = relearn(denoise, shown, texts[1], settings, rows=denoise.at_once, progress=target.progress)
            explained = {}
            for number, (step, tuned) in enumerate(found.stages.items()):
                target.progress("Denoising loss", number, len(found.stages))
                weights = with_lora(denoise, tuned)
                empty, told = (denoising_loss(denoise, others, text, denoise.at_once, seed, weights) for text in texts)
                explained[step] = empty - told
            report = target.cost("Relearning", found.queries)
            before = target.before(texts, seed, others)
        relearned = target.model.clone()
        add_patches(relearned, tuned_patches(relearned, found.stages[settings.steps]), 1.0)
        kind = "other" if len(target.pictures) > 1 else "same"
        shares = ", ".join(f"{step}: {gain.mean():.4f}" for step, gain in explained.items())
        report += (
            f"\nHow much the prompt lowers the denoising loss of the {len(others)} {kind} pictures, by step: {shares}"
        )
        if not before:
            return relearned, f"{report}.\nConnect 'unedited_model' to say after how many steps the concept is back."
        empty, told = before
        after = back_after(explained, empty - told)
        when = "not within these steps" if after is None else f"after {after} steps"
        report += (
            f"; with the unedited model: {(empty - told).mean():.4f}.\nThe concept is back {when}: in half of the "
            f"pictures the prompt explains at least {BACK:.0%} of what it explained to the unedited model."
        )
        return relearned, report
