"""Load Erased Model Weights: erased models that others published, as a patch on the model in the graph."""

import logging
import re
from functools import partial

from comfy_api.latest import io

from .host.exchange import from_another_checkpoint, import_weights, lora_of, share_of, what_differs
from .host.folders import WEIGHTS_FOLDER, file_names, file_stamp
from .host.progress import node_progress, show_text
from .inputs import output, strength_input
from .ui.bounds import within_bounds

log = logging.getLogger(__name__)

PART = re.compile(r"-\d{5}-of-\d{5}\b")  # in the names of a model that was saved in parts


class TRCELoadWeights(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCELoadWeights",
            display_name="Load Erased Model Weights",
            category="model/trce",
            description="Loads an erased model that was published as weights (ESD, UCE, MACE, TRCE; a whole U-Net or a "
            "part of one, in diffusers' names), as a patch on the model in the graph, so that strength and LoRAs work.",
            search_aliases=["ESD", "UCE", "MACE", "import erased unet", "diffusers weights", "partial state dict"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The checkpoint that the weights were made from, usually SD1.4; LoRAs on it stay. It is "
                    "not changed; a patched copy comes out.",
                ),
                io.Combo.Input(
                    "weights_name",
                    options=file_names(WEIGHTS_FOLDER),
                    tooltip="A safetensors file in models/diffusion_models. Pickles (.pt, .ckpt, .bin) are refused. "
                    "Press R to see files that were added since the page was opened.",
                ),
                strength_input(
                    "How much of the change is applied to the model. 0 leaves the model as it is, 1 gives the weights "
                    "in the file, and more than 1 overshoots."
                ),
            ],
            outputs=[
                output(
                    io.Model,
                    "erased_model",
                    "The model with the weights of the file. It goes wherever a MODEL goes.",
                    shown="model",
                ),
                output(
                    io.LoraModel,
                    "lora",
                    "The change at strength 1 as a LoRA: save it with Save LoRA Weights, to use it without this pack.",
                ),
                output(io.String, "report", "How many weights the file holds and how many it changes."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, model, weights_name, strength):
        return file_stamp(WEIGHTS_FOLDER, weights_name)

    @classmethod
    @within_bounds
    def execute(cls, model, weights_name, strength) -> io.NodeOutput:
        progress = partial(node_progress(cls.hidden.unique_id), "Weights")
        patched, changes, total = import_weights(model, weights_name, strength, progress)
        report = f"{len(changes)} of the file's {total} weights differ from the model's."
        share = share_of(model, changes)
        if from_another_checkpoint(model, changes, total, share):
            report += (
                " That is nearly every one, norms too: the file seems to be made from another checkpoint, and the "
                "differences between the checkpoints are included. Connect the checkpoint that it was made from."
            )
        report += what_differs(model, share)
        if PART.search(weights_name):
            report += (
                " The file is one part of several: load the others on the model that comes out, or the erasure is "
                "incomplete."
            )
        log.info("%s", report)
        show_text(cls.hidden.unique_id, report)
        return io.NodeOutput(patched, lora_of(changes), report)
