"""The base of all probes: their inputs and outputs, and the frame of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from comfy_api.latest import io

from ...trce_ops.attacks.evidence import ProbeError
from ...trce_ops.tuning.trajectories import is_out_of_memory
from ..host.progress import node_progress, show_text
from ..inputs import output, seed_input, text_input
from ..ui.bounds import within_bounds
from .target import Target

MODEL = io.Model.Input("model", tooltip="The erased model, which is attacked. It is not changed.")
CLIP = io.Clip.Input("clip", tooltip="The text encoder that encodes your prompts.")
PICTURES = io.Latent.Input(
    "pictures",
    tooltip="4 to 16 pictures of the concept, as latents: from a KSampler with the unedited model, or images through "
    "VAE Encode. More pictures make the attack steadier and slower.",
)
PROMPT = text_input("prompt", "a photo of a cigarette", "What the pictures show, as a plain prompt.")
SEED = seed_input("Seed of everything that is random in the attack. The same seed gives the same attack.")
UNEDITED = io.Model.Input(
    "unedited_model",
    optional=True,
    tooltip="The model before the erasure. With it, the report says in how many pictures the concept comes back.",
)
BLACK_BOX = io.Boolean.Input(
    "black_box",
    default=False,
    optional=True,
    advanced=True,
    tooltip="On: the attack searches on 'unedited_model' and tries what it finds on 'model', like an attacker who does "
    "not have the erased model. Off: it searches on the erased model itself.",
)
CONDITIONING = output(
    io.Conditioning,
    "conditioning",
    "The prompt that the attack found. Connect it to 'positive' of a KSampler to see what comes back.",
)
REPORT = output(
    io.String,
    "report",
    "How far the attack brings the concept back, in figures that the node's help page explains, and what it cost.",
)
PROBE: Any = {  # what the schemas of all probes have
    "category": "model/trce",
    "search_aliases": ["red team", "attack", "jailbreak", "unlearn", "erase concept", "robustness"],
    "hidden": [io.Hidden.unique_id],
}


class Probe(io.ComfyNode):
    """A node that attacks an erased MODEL. Subclasses list io.ComfyNode too: scanners find nodes by that name."""

    attack: ClassVar[Callable[..., tuple]]  # of a Target and the widgets: the outputs of the node, the report last

    @classmethod
    @within_bounds
    def execute(cls, model, clip, pictures=None, unedited_model=None, **widgets) -> io.NodeOutput:
        node_id = cls.hidden.unique_id
        target = Target(model, clip, pictures, unedited_model, node_progress(node_id))
        try:
            outputs = cls.attack(target, **widgets)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            outputs = ()  # raised below, where the traceback no longer holds the tensors
        if not outputs:
            raise ProbeError("The device has not enough memory for the probe; connect smaller 'pictures'.")
        show_text(node_id, outputs[-1])
        return io.NodeOutput(*outputs)
