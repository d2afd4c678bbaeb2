"""Inputs and outputs that several nodes share, and widgets for the fields of settings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from comfy_api.latest import io

from .host.errors import HostError

NO_PRESET = "none"
ErasedDeltaType = io.Custom("ERASED_DELTA")


def output(kind: Any, name: str, tooltip: str, shown: str = "") -> io.Output:
    """An output that is called by its name, or as `shown`."""
    return kind.Output(name, display_name=shown or name, tooltip=tooltip)


def text_input(name: str, placeholder: str, tooltip: str, optional: bool = False) -> io.Input:
    return io.String.Input(
        name, multiline=True, default="", optional=optional, placeholder=placeholder, tooltip=tooltip
    )


MODEL = io.Model.Input(
    "model",
    tooltip="The model to erase from, with the LoRAs that are already on it. It is not changed: an erased copy comes "
    "out.",
)
CLIP = io.Clip.Input("clip", tooltip="The text encoder that encodes your prompts, with its LoRAs and its clip skip.")
DELTA = ErasedDeltaType.Input("delta", tooltip="The erasure, from TRCE Erase or Load Erased Delta.")
KEEP = text_input(
    "keep",
    "an umbrella\na water pistol\n# one caption per line",
    "What must stay as it is, one caption per line. Name the things that are close to the concept; everyday "
    "captions are always kept. Every line keeps more and weakens the erasure a little. '#' starts a comment.",
    optional=True,
)
ERASED_MODEL = output(
    io.Model, "erased_model", "The model without the concepts. It goes wherever a MODEL goes.", shown="model"
)
ERASURE = output(
    ErasedDeltaType, "delta", "The erasure alone: save it, or apply it to other models with the same text encoder."
)


def concepts_input(optional: bool = False) -> io.Input:
    return text_input(
        "concepts",
        "Van Gogh -> a painting\na gun | a pistol -> an umbrella\nblood\n# one concept per line",
        "What to erase, one concept per line. 'concept -> safe' draws the safe target instead; 'concept' alone "
        "erases towards the empty prompt. A bar between names gives them one safe target. Synonyms make the erasure "
        "wider. '#' starts a comment.",
        optional=optional,
    )


def strength_input(tooltip: str, optional: bool = False) -> io.Input:
    return io.Float.Input("strength", default=1.0, min=-2.0, max=2.0, step=0.05, optional=optional, tooltip=tooltip)


def filename_input(default: str, folder: str) -> io.Input:
    return io.String.Input(
        "filename_prefix",
        default=default,
        tooltip=f"Name of the file in {folder}, sub-folders allowed. A number is added; no file is ever overwritten.",
    )


def linked_text(name: str, tooltip: str) -> io.Input:
    """Text that another node gives."""
    return io.String.Input(name, force_input=True, optional=True, tooltip=tooltip)


def preset_input(presets: Mapping[str, str], tooltip: str) -> io.Input:
    """A list to start from, or none."""
    return io.Combo.Input("preset", options=[NO_PRESET, *presets], default=NO_PRESET, optional=True, tooltip=tooltip)


def seed_input(tooltip: str) -> io.Input:
    """A seed that does not change between runs, so that a cached result can be reused."""
    return io.Int.Input(
        "seed", default=0, min=0, max=0xFFFFFFFF, control_after_generate=False, optional=True, tooltip=tooltip
    )


STRENGTH = strength_input(
    "How much of the erasure is applied to the model. 0 leaves the model as it is, 1 erases, more than 1 overshoots, "
    "and less than 0 draws more of the concept. The delta does not depend on it.",
    optional=True,
)


ERASED = [  # the outputs of a node that erases
    ERASED_MODEL,
    ERASURE,
    output(io.String, "report", "How far the concepts moved, how well the rest was kept, and how long it took."),
]


def setting_inputs(
    defaults: Mapping[str, Any],
    tooltips: Mapping[str, str],
    limits: Mapping[str, Iterable],
    advanced: Collection[str] = (),
) -> list[io.Input]:
    """A widget for every setting that has a tooltip, of the type of its default.

    limits: (least, most, step, precision) of a number, or fewer of them; the options of a choice. All widgets are
    optional, so that API workflows name only the settings that they change.
    """
    return [_setting(name, defaults[name], tooltips[name], limits, name in advanced) for name in tooltips]


def _setting(name: str, default: Any, tooltip: str, limits: Mapping[str, Iterable], advanced: bool) -> io.Input:
    options = {"default": default, "tooltip": tooltip, "optional": True, "advanced": advanced or None}
    if isinstance(default, bool):
        return io.Boolean.Input(name, **options)
    if isinstance(default, str) and name in limits:
        return io.Combo.Input(name, options=list(limits[name]), **options)
    if isinstance(default, str):
        return io.String.Input(name, **options)
    number = io.Int if isinstance(default, int) else io.Float
    return number.Input(name, **options, **dict(zip(("min", "max", "step", "round"), limits[name])))


def settings_from(value: Any, kind: type, node: str) -> Any:
    """What is connected to 'settings', or the defaults. Raises HostError for anything that `node` did not make."""
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise HostError(f"'settings' holds a {type(value).__name__}; connect the node {node}, or leave it unconnected.")
    return value
