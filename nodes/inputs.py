"""Inputs and outputs that several nodes share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io

from .host.errors import HostError

NO_PRESET = "none"
ErasedDelta = io.Custom("ERASED_DELTA")

MODEL = io.Model.Input(
    "model",
    tooltip="The model to erase from, with the LoRAs that are already on it. It is not changed: an erased copy comes "
    "out.",
)
CLIP = io.Clip.Input(
    "clip",
    tooltip="The text encoder that encodes your prompts, with its LoRAs and its clip skip.",
)
CONCEPTS = io.String.Input(
    "concepts",
    multiline=True,
    default="",
    placeholder="Van Gogh -> a painting\na gun -> an umbrella\nblood\n# one per line; alone = nothing in its place",
    tooltip="What to erase, one concept per line. 'concept -> safe' draws the safe target instead; 'concept' alone "
    "draws nothing in its place. Synonyms on lines of their own make the erasure wider. '#' starts a comment.",
)
KEEP = io.String.Input(
    "keep",
    multiline=True,
    default="",
    optional=True,
    placeholder="an umbrella\na water pistol\n# one caption per line",
    tooltip="What must stay as it is, one caption per line. Name the things that are close to the concept; everyday "
    "things are kept anyway. Every line keeps more and weakens the erasure a little.",
)
STRENGTH = io.Float.Input(
    "strength",
    default=1.0,
    min=-2.0,
    max=2.0,
    step=0.05,
    optional=True,
    tooltip="How much of the erasure is applied to the model. 0 leaves the model as it is, 1 erases, more than 1 "
    "overshoots, and less than 0 draws more of the concept. The delta does not depend on it.",
)
ERASED = [  # the outputs of every node that erases
    io.Model.Output(
        "erased_model",
        display_name="model",
        tooltip="The model without the concepts. It goes wherever a MODEL goes.",
    ),
    ErasedDelta.Output(
        "delta",
        display_name="delta",
        tooltip="The erasure alone: save it, or apply it to other models with the same text encoder.",
    ),
    io.String.Output(
        "report",
        display_name="report",
        tooltip="How far the concepts moved, how well the rest was kept, and how long it took.",
    ),
]


def knob(kind: Any, defaults: object, name: str, tooltip: str, **options: Any) -> io.Input:
    """A widget for the field `name` of a settings dataclass, with that field's value as its default.

    Optional, so that API workflows name only the knobs that they change.
    """
    return kind(name, default=getattr(defaults, name), tooltip=tooltip, optional=True, **options)


def preset_input(presets: Mapping[str, str], tooltip: str) -> io.Input:
    """A list to start from, or none."""
    return io.Combo.Input("preset", options=[NO_PRESET, *presets], default=NO_PRESET, optional=True, tooltip=tooltip)


def seed(tooltip: str) -> io.Input:
    """A seed that stays as it is from one run to the next, so that the same run is found in the cache."""
    return io.Int.Input(
        "seed", default=0, min=0, max=0xFFFFFFFF, control_after_generate=False, optional=True, tooltip=tooltip
    )


def settings_from(value: Any, kind: type, node: str) -> Any:
    """What is connected to 'settings', or the defaults. Raises HostError for anything that `node` did not make."""
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise HostError(f"'settings' holds a {type(value).__name__}; connect the node {node}, or leave it unconnected.")
    return value
