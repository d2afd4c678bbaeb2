"""Method Settings: the knobs of the methods that Erase by Another Method offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from comfy_api.latest import io

from ..trce_ops.methods import speed
from ..trce_ops.methods.registry import METHODS
from .inputs import knob
from .ui.bounds import within_bounds

OFFERED = [name for name in METHODS if name not in ("trce", "trce-closed-form")]  # those two are TRCE Erase's
MethodSettingsType = io.Custom("TRCE_METHOD_SETTINGS")


@dataclass(frozen=True)
class MethodSettings:
    """The knobs that were set for one method, by name. resolution: 0 for what the model family draws."""

    method: str = ""
    knobs: Mapping[str, Any] = field(default_factory=dict)

    def of(self, method: str, resolution: int) -> Any:
        """The settings of `method` in trce_ops, at the model family's resolution where none is set."""
        settings = replace(METHODS[method].settings, **self.knobs)
        if hasattr(settings, "resolution") and not self.knobs.get("resolution"):
            settings = replace(settings, resolution=resolution)
        return settings


def _weight(method: str, name: str, tooltip: str) -> io.Input:
    options = {"min": 0.0, "max": 1000.0, "step": 0.001, "round": 0.000001}
    return knob(io.Float.Input, METHODS[method].settings, name, tooltip, **options)


def _count(method: str, name: str, tooltip: str, least: int = 0, most: int = 10000) -> io.Input:
    return knob(io.Int.Input, METHODS[method].settings, name, tooltip, min=least, max=most)


def _cosine(method: str, name: str, tooltip: str) -> io.Input:
    return knob(io.Float.Input, METHODS[method].settings, name, tooltip, min=-1.0, max=1.0, step=0.01)


def _switch(method: str, name: str, tooltip: str) -> io.Input:
    return knob(io.Boolean.Input, METHODS[method].settings, name, tooltip)


def _choice(method: str, name: str, tooltip: str, options: list[str]) -> io.Input:
    return knob(io.Combo.Input, METHODS[method].settings, name, tooltip, options=options)


def _seed(method: str) -> io.Input:
    return _count(
        method, "seed", "Seed of everything that is random. The same seed gives the same delta.", 0, 2**32 - 1
    )


EVERYDAY = "lambda_1. Weight of everyday captions and 'keep'. Raise it when kept things change."
LISTED = "lambda_1. Weight of each line of 'keep'. Raise it when kept things change."
RIDGE = "lambda_2. How strongly all weights resist change. Raise it when pictures break."

KNOBS = {  # of the methods that have any
    "uce": [
        _weight("uce", "erase", "eta. Weight of each concept. Raising it erases harder."),
        _weight("uce", "preserve", LISTED),
        _weight("uce", "ridge", RIDGE),
        _switch("uce", "expand", "On: also erase 'image of ...', 'photo of ...' and similar phrases."),
    ],
    "rece": [
        _count("rece", "rounds", "How often to look for text that brings the concept back, and erase it.", 0, 100),
        _weight("rece", "reach", "lambda of the attack. The smaller, the further that text may be from real text."),
        _weight("rece", "preserve", LISTED),
        _weight("rece", "ridge", RIDGE),
    ],
    "mace": [_weight("mace", "preserve", EVERYDAY), _weight("mace", "ridge", RIDGE)],
    "realera": [
        _count("realera", "neighbours", "How many points to draw around every embedding of the concept.", 0, 100),
        _cosine("realera", "near", "S_1. A point at least this similar to the concept is erased with it."),
        _cosine("realera", "far", "A point at least this similar, but less than 'near', is kept."),
        _weight("realera", "beyond", "Weight of the kept points, against that of everyday captions."),
        _weight("realera", "preserve", EVERYDAY),
        _weight("realera", "ridge", RIDGE),
        _seed("realera"),
    ],
    "speed": [
        _choice("speed", "params", "Which projections to change: values, keys or both.", list(speed.PARAMS)),
        _choice(
            "speed",
            "tokens",
            "'subject': erase the last token of every concept. 'all': erase every token of its prompt.",
            list(speed.TOKENS),
        ),
        _weight("speed", "preserve", "rho. How strongly all weights resist change. It must be above 0."),
        _weight("speed", "ridge", "mu. How much the empty prompt may move. At 0 it does not move at all."),
        _weight(
            "speed",
            "threshold",
            "Directions in which kept text is smaller than this may change. Raising it erases harder and keeps less "
            "exactly.",
        ),
        _switch("speed", "filtered", "On: keep only what would change most."),
        _count("speed", "augment", "How many points to draw around every kept embedding.", 0, 100),
        _seed("speed"),
    ],
    "leace": [
        _weight("leace", "shrinkage", "How far to shrink the covariance of the text towards a round one."),
        _switch("leace", "affine", "On: with the constant term, so that the mean of all text stays."),
    ],
    "esd": [
        _weight("esd", "negative_guidance", "eta. How far to push away from the concept."),
        _count("esd", "steps", "Steps of training. More erase harder and take longer."),
        knob(
            io.Float.Input,
            METHODS["esd"].settings,
            "learning_rate",
            "Size of a training step; the right one depends on the model. The paper's is 5e-5.",
            min=0.0,
            max=1.0,
            step=1e-6,
            round=False,
        ),
        _choice(
            "esd",
            "projections",
            "'text': keys and values of cross-attention (ESD-x-strict). 'cross': its queries too.",
            ["text", "cross"],
        ),
        _count("esd", "trajectories", "How many trajectories of the concept to learn from.", 1, 1000),
        io.Int.Input(
            "resolution",
            default=0,
            min=0,
            max=2048,
            step=8,
            optional=True,
            tooltip="Size of the pictures to train on, in pixels. 0 takes what the model family draws.",
        ),
        _seed("esd"),
    ],
}


class TRCEMethodSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEMethodSettings",
            display_name="Method Settings",
            category="model/trce",
            description="Settings for Erase by Another Method, which works without this node, with the values of each "
            "paper. Choose the same method in both nodes.",
            search_aliases=["UCE", "RECE", "MACE", "RealEra", "SPEED", "LEACE", "ESD", "unlearn", "erase settings"],
            inputs=[
                io.DynamicCombo.Input(
                    "method",
                    options=[io.DynamicCombo.Option(name, KNOBS[name]) for name in OFFERED if name in KNOBS],
                    tooltip="Whose settings these are. Changing it shows the knobs of that method, with the symbols of "
                    "its paper.",
                )
            ],
            outputs=[
                MethodSettingsType.Output(
                    "settings",
                    display_name="settings",
                    tooltip="Connect it to 'settings' of Erase by Another Method.",
                )
            ],
        )

    @classmethod
    @within_bounds
    def execute(cls, method) -> io.NodeOutput:
        knobs = dict(method)
        return io.NodeOutput(MethodSettings(knobs.pop("method"), knobs))
