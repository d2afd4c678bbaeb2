"""Load Erased Model Weights: erased models that others published, as a change of the model in the graph."""

from comfy_api.latest import io

from .host.exchange import from_another_checkpoint, import_weights, lora_of, weight_file_names, weight_file_stamp
from .host.progress import node_progress, show_text
from .ui.bounds import within_bounds


class TRCELoadWeights(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCELoadWeights",
            display_name="Load Erased Model Weights",
            category="model/trce",
            description="Puts an erased model that was published as weights (ESD, UCE, MACE, TRCE; a whole U-Net or "
            "a part of one, in diffusers' names) on the model in the graph, as what it changes: with a strength, and "
            "together with LoRAs.",
            search_aliases=["ESD", "UCE", "MACE", "import erased unet", "diffusers weights", "partial state dict"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The checkpoint that the weights were made from, usually SD1.4; LoRAs on it stay. It is "
                    "not changed; a patched copy comes out.",
                ),
                io.Combo.Input(
                    "weights_name",
                    options=weight_file_names(),
                    tooltip="A safetensors file in models/diffusion_models. Pickles (.pt, .ckpt, .bin) are refused. "
                    "Press R to see files that were added since the page was opened.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-2.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How much of the change goes on the model: 0 leaves it as it is, 1 gives the weights in "
                    "the file, more overshoots.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "erased_model",
                    display_name="model",
                    tooltip="The model with the weights of the file. Goes wherever a MODEL goes.",
                ),
                io.LoraModel.Output(
                    "lora",
                    display_name="lora",
                    tooltip="The change at strength 1 as a LoRA: save it with Save LoRA Weights, to use it without "
                    "this pack.",
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="How many weights the file holds and how many it changes."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, model, weights_name, strength):
        return weight_file_stamp(weights_name), strength

    @classmethod
    @within_bounds
    def execute(cls, model, weights_name, strength) -> io.NodeOutput:
        node_id = cls.hidden.unique_id
        progress = node_progress(node_id)
        patched, changes, total = import_weights(
            model, weights_name, strength, lambda *step: progress("Weights", *step)
        )
        report = f"{len(changes)} of the file's {total} weights differ from the model's."
        if from_another_checkpoint(model, changes, total):
            report += (
                " That is every one, norms too: the file seems to be made from another checkpoint, whose differences "
                "come along. Connect the checkpoint that it was made from."
            )
        show_text(node_id, report)
        return io.NodeOutput(patched, lora_of(changes), report)
