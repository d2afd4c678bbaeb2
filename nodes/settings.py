"""TRCE Settings: the settings of TRCE Erase, presets first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from comfy_api.latest import io

from ..trce_ops.closed_form.erase import EraseSettings
from ..trce_ops.methods.trce import MILD
from ..trce_ops.methods.trce import PAPER as PAPER_CLOSED_FORM
from ..trce_ops.tuning.settings import PAPER as PAPER_TUNING
from ..trce_ops.tuning.settings import QUICK, ROBUST, TuneSettings
from .inputs import output, seed_input
from .setting_widgets import closed_form_widgets, tuning_widgets
from .ui.bounds import within_bounds

DEFAULT, PAPER = "default", "paper"
# What the choices show at first. Mode 'closed form' erases harder than the closed form before tuning
CUSTOM_CLOSED_FORM = {"custom": EraseSettings(), "custom, tuned": MILD}
CUSTOM_TUNING = {"custom": QUICK, "custom, robust": ROBUST}


@dataclass(frozen=True)
class Settings:
    """The output of TRCE Settings. closed_form, tuning: None for the mode's own; resolution: in pixels, 0 for the
    family's."""

    closed_form: EraseSettings | None = None
    tuning: TuneSettings | None = None
    seed: int = 0
    resolution: int = 0
    retrain: bool = False


TrceSettingsType = io.Custom("TRCE_SETTINGS")


def _presets(name: str, custom: dict[str, list[io.Input]], tooltip: str, more: str) -> io.Input:
    options = {DEFAULT: [], PAPER: [], **custom}
    return io.DynamicCombo.Input(
        name,
        options=[io.DynamicCombo.Option(choice, inputs) for choice, inputs in options.items()],
        optional=True,
        tooltip=f"{tooltip} 'default' is what measured best for the mode, 'paper' is what the authors published, "
        f"'custom' shows every setting. {more}",
    )


class TRCESettings(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCESettings",
            display_name="TRCE Settings",
            category="model/trce",
            description="Settings for TRCE Erase. Choose a preset for the closed form and for tuning, or 'custom' to "
            "change every setting. TRCE Erase works without this node, with the defaults.",
            search_aliases=["erase settings", "tuning", "hyperparameters", "unlearn", "erase concept"],
            inputs=[
                _presets(
                    "closed_form",
                    {choice: closed_form_widgets(shown) for choice, shown in CUSTOM_CLOSED_FORM.items()},
                    "How the closed form works.",
                    "Choose 'custom, tuned' to change what the modes 'tuned' and 'robust' begin with.",
                ),
                _presets(
                    "tuning",
                    {choice: tuning_widgets(shown) for choice, shown in CUSTOM_TUNING.items()},
                    "How tuning works, in the modes 'tuned' and 'robust' of TRCE Erase.",
                    "Choose 'custom, robust' to change what mode 'robust' does; 'custom' and 'paper' do the same in "
                    "both modes. With 'metric' off in the closed form, 'default' has a higher learning rate and goal "
                    "in mode 'tuned'.",
                ),
                io.Int.Input(
                    "resolution",
                    default=0,
                    min=0,
                    max=2048,
                    step=8,
                    optional=True,
                    tooltip="Size of the pictures to tune on, in pixels. 0 takes what the model family draws: 512 for "
                    "SD1.x, 768 for SD2.x with v-prediction, 1024 for SDXL. Set it for a model that draws another "
                    "size; smaller is faster and less exact.",
                ),
                seed_input("Seed of everything that is random in tuning. The same seed gives the same delta."),
                io.Boolean.Input(
                    "retrain",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Off: reuse a tuning that was done before with the same inputs and is cached on disk. On: "
                    "tune again and replace it.",
                ),
            ],
            outputs=[output(TrceSettingsType, "settings", "Connect it to 'settings' of TRCE Erase.")],
        )

    @classmethod
    @within_bounds
    def execute(cls, closed_form=None, tuning=None, resolution=0, seed=0, retrain=False) -> io.NodeOutput:
        first = closed_form_settings(closed_form or {"closed_form": DEFAULT})
        second = tuning_settings(tuning or {"tuning": DEFAULT})
        return io.NodeOutput(Settings(first, second, seed, resolution, retrain))


def closed_form_settings(given: Mapping[str, Any]) -> EraseSettings | None:
    """The preset that a choice in 'closed_form' names, with what was changed in 'custom'; None for 'default'."""
    changes = dict(given)
    choice = changes.pop("closed_form")
    if choice not in CUSTOM_CLOSED_FORM:
        return PAPER_CLOSED_FORM if choice == PAPER else None
    shown = CUSTOM_CLOSED_FORM[choice]
    weights = {name.removeprefix("weight_"): changes.pop(name) for name in given if name.startswith("weight_")}
    return replace(shown, weights=replace(shown.weights, **weights), **changes)


def tuning_settings(given: Mapping[str, Any]) -> TuneSettings | None:
    """The preset that a choice in 'tuning' names, with what was changed in 'custom'; None for 'default'."""
    changes = dict(given)
    choice = changes.pop("tuning")
    if choice == PAPER:
        return PAPER_TUNING
    return replace(CUSTOM_TUNING[choice], **changes) if choice in CUSTOM_TUNING else None
