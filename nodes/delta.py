"""Erased deltas as things of their own: apply, save, load."""

import logging

from comfy_api.latest import io

from .host.apply import apply_delta
from .host.encoders import text_fingerprint
from .host.errors import HostError
from .host.fingerprint import weight_type
from .host.folders import delta_names, delta_stamp, read_delta, write_delta
from .host.limits import limits
from .host.progress import show_text
from .host.readers import find_text_readers
from .inputs import ErasedDelta
from .ui.bounds import within_bounds

log = logging.getLogger(__name__)


class TRCEApplyDelta(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEApplyDelta",
            display_name="Apply Erased Delta",
            category="model/trce",
            description="Puts an erasure on a model: one made by TRCE Erase in this workflow, or one that somebody "
            "shared. Works on every model with the text encoder that the delta was made with.",
            search_aliases=["apply erasure", "erased concept", "unlearn", "concept delta"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model to erase from, with any LoRAs already on it. It is not changed; an erased "
                    "copy comes out.",
                ),
                ErasedDelta.Input(
                    "delta",
                    tooltip="The erasure, from TRCE Erase or Load Erased Delta. Several of these nodes in a row add "
                    "up.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-2.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How much of the erasure goes on the model: 0 leaves it as it is, 1 erases, more "
                    "overshoots, less than 0 draws more of the concept.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Connect the text encoder that your prompts go through to have it checked: a delta "
                    "erases properly only with the encoder it was made with.",
                ),
                io.Boolean.Input(
                    "allow_other_encoder",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="On: apply the delta even when the connected 'clip' is not the encoder it was made with, "
                    "and say so in the log. The concept may then survive and other things may change.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "erased_model",
                    display_name="model",
                    tooltip="The model with the erasure on it. Goes wherever a MODEL goes.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(cls, model, delta, strength, clip=None, allow_other_encoder=False) -> io.NodeOutput:
        erased = apply_delta(model, delta, strength)
        lines = limits(model, delta, clip)
        if clip is not None and text_fingerprint(clip, find_text_readers(model)) != delta.info.encoder:
            if not allow_other_encoder:
                raise HostError(
                    "The delta was made with another text encoder, LoRA on it or clip skip than the connected "
                    f"'clip', or in another precision than {weight_type(clip)}. Connect the CLIP it was made with, or "
                    "turn on 'allow_other_encoder'."
                )
            lines.append("The delta was made with another text encoder, and 'allow_other_encoder' is on: look closely.")
            log.warning("%s", lines[-1])
        show_text(cls.hidden.unique_id, "\n".join(lines))
        return io.NodeOutput(erased)


class TRCESaveDelta(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCESaveDelta",
            display_name="Save Erased Delta",
            category="model/trce",
            description="Saves an erasure as a small safetensors file in models/erased_deltas, to load in other "
            "workflows or to share. The file holds the concepts, the keep list and the settings in readable form.",
            search_aliases=["export erasure", "save erased concept"],
            is_output_node=True,
            inputs=[
                ErasedDelta.Input("delta", tooltip="The erasure to save, from TRCE Erase."),
                io.String.Input(
                    "filename_prefix",
                    default="erased",
                    tooltip="Name of the file in models/erased_deltas, sub-folders allowed. A number is added; no "
                    "file is ever overwritten.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(cls, delta, filename_prefix) -> io.NodeOutput:
        name = write_delta(delta, filename_prefix)
        show_text(cls.hidden.unique_id, f"Saved as {name}")
        return io.NodeOutput(ui={"text": [name]})


class TRCELoadDelta(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCELoadDelta",
            display_name="Load Erased Delta",
            category="model/trce",
            description="Loads an erasure from models/erased_deltas. The file is checked first; a damaged or foreign "
            "one is refused with the reason.",
            search_aliases=["import erasure", "load erased concept"],
            inputs=[
                io.Combo.Input(
                    "delta_name",
                    options=delta_names(),
                    tooltip="A file in models/erased_deltas. Press R to see files that were added since the page was "
                    "opened.",
                ),
            ],
            outputs=[
                ErasedDelta.Output(
                    "delta", display_name="delta", tooltip="The erasure: connect it to Apply Erased Delta."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, delta_name):
        return delta_stamp(delta_name)

    @classmethod
    @within_bounds
    def execute(cls, delta_name) -> io.NodeOutput:
        delta = read_delta(delta_name)
        concepts = ", ".join(pair.concept for pair in delta.info.concepts)
        show_text(cls.hidden.unique_id, f"Erases: {concepts}")
        return io.NodeOutput(delta)
