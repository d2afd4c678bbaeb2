"""Inputs, outputs and names that all attacks share."""

from __future__ import annotations

from comfy_api.latest import io

from ..inputs import seed

ALIASES = ["red team", "attack", "jailbreak", "unlearn", "erase concept", "robustness"]

MODEL = io.Model.Input("model", tooltip="The erased model, which is attacked. It is not changed.")
CLIP = io.Clip.Input("clip", tooltip="The text encoder that encodes your prompts.")
PICTURES = io.Latent.Input(
    "pictures",
    tooltip="Some 4 to 16 pictures of the concept, as latents: those that a KSampler draws with the unedited model, or "
    "VAE Encode of images. More make the attack steadier and slower.",
)
PROMPT = io.String.Input(
    "prompt",
    multiline=True,
    default="",
    placeholder="a photo of a star",
    tooltip="What the pictures show, in plain words, as you would ask the unedited model for it.",
)
SEED = seed("Seed of everything that is random in the attack. The same seed gives the same attack.")
UNEDITED = io.Model.Input(
    "unedited_model",
    optional=True,
    tooltip="The model before the erasure. With it, the report says in how many pictures the concept comes back.",
)
CONDITIONING = io.Conditioning.Output(
    "conditioning",
    display_name="conditioning",
    tooltip="The prompt that the attack found. Connect it to 'positive' of a KSampler to see what comes back.",
)
REPORT = io.String.Output(
    "report",
    display_name="report",
    tooltip="How much of the pictures the attack explains, compared with the plain prompt and with no prompt, and what "
    "the attack cost.",
)


def steps(default: int, most: int, tooltip: str) -> io.Input:
    """How long the attack goes on."""
    return io.Int.Input("steps", default=default, min=0, max=most, tooltip=tooltip)


def batch(default: int, tooltip: str) -> io.Input:
    """Pictures in every step."""
    return io.Int.Input("batch", default=default, min=1, max=64, advanced=True, tooltip=tooltip)
