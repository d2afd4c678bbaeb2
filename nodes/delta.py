"""Nodes for erased deltas: apply, save, load."""

import logging

from comfy_api.latest import io

from ..trce_ops.text.concepts import format_concepts, format_keep
from .host.apply import apply_delta
from .host.encoders import text_fingerprint
from .host.errors import HostError
from .host.fingerprint import weight_type
from .host.folders import DELTA_FOLDER, file_names, file_stamp, read_delta, write_delta
from .host.limits import limits
from .host.progress import show_text
from .host.readers import find_text_readers
from .inputs import DELTA, ERASED_MODEL, ERASURE, MODEL, filename_input, strength_input
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
            "shared. The model has to have the text encoder that the delta was made with. Several of these nodes in a "
            "row combine their erasures.",
            search_aliases=["apply erasure", "erased concept", "unlearn", "concept delta"],
            inputs=[
                MODEL,
                DELTA,
                strength_input(
                    "How much of the erasure is applied to the model. 0 leaves the model as it is, 1 erases, more than "
                    "1 overshoots, and less than 0 draws more of the concept."
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Connect the text encoder that encodes your prompts to have it checked: a delta "
                    "erases properly only with the encoder it was made with.",
                ),
                io.Boolean.Input(
                    "allow_other_encoder",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="On: apply the delta even when the connected 'clip' is not the encoder it was made with, "
                    "and log a warning. The concept may then survive and other things may change.",
                ),
            ],
            outputs=[ERASED_MODEL],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    @within_bounds
    def execute(cls, model, delta, strength, clip=None, allow_other_encoder=False) -> io.NodeOutput:
        erased = apply_delta(model, delta, strength)
        lines = limits(model, delta, clip, graph=cls.hidden.prompt)
        if clip is not None and text_fingerprint(clip, find_text_readers(model)) != delta.info.encoder:
            norm = ", or for a model with another norm before the text" if delta.info.space == "post-norm" else ""
            if not allow_other_encoder:
                raise HostError(
                    "The delta was made with another text encoder, LoRA on it or clip skip than the connected "
                    f"'clip', or in another precision than {weight_type(clip)}{norm}. Connect what it was made with, "
                    "or turn on 'allow_other_encoder'."
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
            inputs=[DELTA, filename_input("erased", "models/erased_deltas")],
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
                    options=file_names(DELTA_FOLDER),
                    tooltip="A file in models/erased_deltas. Press R to see files that were added since the page was "
                    "opened.",
                )
            ],
            outputs=[ERASURE],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, delta_name):
        return file_stamp(DELTA_FOLDER, delta_name)

    @classmethod
    @within_bounds
    def execute(cls, delta_name) -> io.NodeOutput:
        delta = read_delta(delta_name)
        lines = ["Erases:", format_concepts(delta.info.concepts)]
        if delta.info.keep:
            lines += ["Keeps:", format_keep(delta.info.keep)]
        show_text(cls.hidden.unique_id, "\n".join(lines))
        return io.NodeOutput(delta)
