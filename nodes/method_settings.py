"""Method Settings: the settings of the methods that Erase by Another Method offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from comfy_api.latest import io

from ..trce_ops.methods import speed
from ..trce_ops.methods.registry import METHODS
from .inputs import output, setting_inputs
from .ui.bounds import within_bounds

TRCE_ERASE = ("trce", "trce-robust", "trce-closed-form")  # has a node of its own
OFFERED = [name for name in METHODS if name not in TRCE_ERASE]
MethodSettingsType = io.Custom("TRCE_METHOD_SETTINGS")


@dataclass(frozen=True)
class MethodSettings:
    """The settings chosen for one method, by name. A resolution of 0 means the model family's own."""

    method: str = ""
    chosen: Mapping[str, Any] = field(default_factory=dict)

    def of(self, method: str, resolution: int) -> Any:
        """The settings of `method` in trce_ops, at `resolution` if none was chosen."""
        defaults: Any = METHODS[method].settings
        settings = replace(defaults, **self.chosen)
        if hasattr(settings, "resolution") and not self.chosen.get("resolution"):
            settings = replace(settings, resolution=resolution)
        return settings


EVERYDAY = "lambda_1. Weight of everyday captions and 'keep'. Raise it when kept things change."
LISTED = "lambda_1. Weight of each line of 'keep'. Raise it when kept things change."
RIDGE = "lambda_2. How strongly all weights resist change. Raise it when pictures break."
RESOLUTION = "Size of the pictures to train on, in pixels. 0 takes what the model family draws."
SEED = "Seed of everything that is random. The same seed gives the same delta."

TOOLTIPS = {  # by method; a method without settings is left out
    "uce": {
        "erase": "eta. Weight of each concept. Raising it erases harder.",
        "preserve": LISTED,
        "ridge": RIDGE,
        "expand": "On: also erase 'image of ...', 'photo of ...' and similar phrases.",
    },
    "rece": {
        "rounds": "How often to look for text that brings the concept back, and erase it.",
        "reach": "lambda of the attack. The smaller, the further that text may be from real text.",
        "preserve": LISTED,
        "ridge": RIDGE,
    },
    "mace": {"preserve": EVERYDAY, "ridge": RIDGE},
    "realera": {
        "neighbours": "How many points to draw around every embedding of the concept.",
        "near": "S_1. A point at least this similar to the concept is erased with it.",
        "far": "A point at least this similar, but less than 'near', is kept.",
        "beyond": "Weight of the kept points, against that of everyday captions.",
        "preserve": EVERYDAY,
        "ridge": RIDGE,
        "seed": SEED,
    },
    "speed": {
        "params": "Which projections to change: values, keys or both.",
        "tokens": "'subject': erase the last token of every concept. 'all': erase every token of its prompt.",
        "preserve": "rho. How strongly all weights resist change. It must be above 0.",
        "ridge": "mu. How much the empty prompt may move. At 0 it does not move at all.",
        "threshold": "Directions in which kept text is smaller than this may change. Raising it erases harder and "
        "keeps less exactly.",
        "filtered": "On: keep only embeddings that would change more than the average.",
        "augment": "How many points to draw around every kept embedding.",
        "seed": SEED,
    },
    "leace": {
        "shrinkage": "How far to shrink the covariance of the text towards a multiple of the identity.",
        "affine": "On: include the constant term, which keeps the mean of all text in place.",
    },
    "esd": {
        "negative_guidance": "eta. How far to push away from the concept.",
        "steps": "Steps of training. More steps erase harder and take longer.",
        "learning_rate": "Size of a training step; the right one depends on the model. The authors' script has 5e-5.",
        "projections": "'text': keys and values of cross-attention (ESD-x-strict). 'cross': its queries too.",
        "trajectories": "How many prompts of the concept are drawn, to learn from the noisy pictures on the way.",
        "resolution": RESOLUTION,
        "seed": SEED,
    },
    "erase-anything": {
        "negative_guidance": "eta. How far to push away from the concept.",
        "attention": "lambda_attn. Weight of how much the picture attends to the concept's words. Raising it erases "
        "harder.",
        "preserve": "lambda_fm. Weight of everyday captions and 'keep'. Raise it when kept things change.",
        "contrast": "lambda_rsc. Weight of attending to the concept as to irrelevant words instead of its synonym.",
        "steps": "Steps of training, half of which erase and half preserve. More take longer.",
        "learning_rate": "Size of a training step; the right one depends on the model. The paper's is 1e-3.",
        "rank": "Rank of the change of each weight.",
        "trajectories": "How many prompts of the concept, and as many kept ones, are drawn, to learn from the noisy "
        "pictures on the way.",
        "resolution": RESOLUTION,
        "seed": SEED,
    },
}
NUMBERS = ("erase", "preserve", "ridge", "beyond", "threshold", "shrinkage", "negative_guidance")
NUMBERS += ("attention", "contrast")
LIMITS = {
    **dict.fromkeys(NUMBERS, (0.0, 1000.0, 0.001, 0.000001)),
    "reach": (0.000001, 1000.0, 0.001, 0.000001),
    **dict.fromkeys(("rounds", "neighbours", "augment"), (0, 100)),
    **dict.fromkeys(("near", "far"), (-1.0, 1.0, 0.01)),
    "params": speed.PARAMS,
    "tokens": speed.TOKENS,
    "steps": (0, 10000),
    "learning_rate": (0.0, 1.0, 1e-6, False),
    "projections": ("text", "cross"),
    "rank": (0, 256),
    "trajectories": (1, 1000),
    "resolution": (0, 2048, 8),
    "seed": (0, 2**32 - 1),
}


def _option(method: str) -> io.DynamicCombo.Option:
    defaults = {**vars(METHODS[method].settings), "resolution": 0}
    return io.DynamicCombo.Option(method, setting_inputs(defaults, TOOLTIPS[method], LIMITS))


class TRCEMethodSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEMethodSettings",
            display_name="Method Settings",
            category="model/trce",
            description="Settings for Erase by Another Method, which works without this node, with the defaults of "
            "each method. Choose the same method in both nodes.",
            search_aliases=["UCE", "RECE", "MACE", "RealEra", "SPEED", "LEACE", "ESD", "EraseAnything", "unlearn"],
            inputs=[
                io.DynamicCombo.Input(
                    "method",
                    options=[_option(name) for name in OFFERED if name in TOOLTIPS],
                    tooltip="Whose settings these are. Changing it shows the settings of that method, with the symbols "
                    "that its paper has for them.",
                )
            ],
            outputs=[output(MethodSettingsType, "settings", "Connect it to 'settings' of Erase by Another Method.")],
        )

    @classmethod
    @within_bounds
    def execute(cls, method) -> io.NodeOutput:
        chosen = dict(method)
        return io.NodeOutput(MethodSettings(chosen.pop("method"), chosen))
