"""Nodes that take an erasure elsewhere: Delta to LoRA, and Save Erased Weights for Diffusers."""

import torch
from comfy_api.latest import io

from ..trce_ops.delta.lora import LoraSettings, make_lora
from .host.errors import HostError
from .host.exchange import write_diffusers
from .host.progress import node_progress, show_text
from .host.text_weights import changed_weights
from .host.weight_names import portable_module
from .inputs import DELTA, filename_input, output, setting_inputs
from .ui.bounds import within_bounds

WHOLE, LOW_RANK = "whole (exact)", "low rank"
COMFYUI, PORTABLE = "ComfyUI (every model)", "portable (SD1.x, SD2.x, SDXL)"
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
DEFAULTS = {"form": WHOLE, "energy": 0.999, "max_rank": 0, "spelling": COMFYUI, "precision": "fp32"}
TOOLTIPS = {
    "form": "'whole': one matrix per projection, exact, 77 MB for SD1.x in fp32. 'low rank': factors, often smaller, "
    "with the error in the report.",
    "energy": "Form 'low rank': how much of every change its factors keep, as a share of its squared size. Raising it "
    "makes the file larger and the error smaller.",
    "max_rank": "Form 'low rank': highest rank of the factors, whatever the error; 0 sets no limit.",
    "spelling": "How the projections are named. 'ComfyUI' works here for every model, 'portable' (lora_unet_...) here "
    "and in other programs that read kohya's LoRAs.",
    "precision": "The type of the numbers in the LoRA. fp16 halves the file; the report gives the error.",
}
LIMITS = {
    "form": (WHOLE, LOW_RANK),
    "energy": (0.5, 0.999999, 0.001, 0.000001),
    "max_rank": (0, 4096),
    "spelling": (COMFYUI, PORTABLE),
    "precision": PRECISIONS,
}


class TRCEDeltaToLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEDeltaToLoRA",
            display_name="Delta to LoRA",
            category="model/trce",
            description="Turns an erasure into a LoRA for one model, for programs and nodes that read LoRAs and not "
            "deltas. Save it with Save LoRA Weights; Load LoRA then erases without this pack.",
            search_aliases=["export lora", "erasure to lora", "convert delta", "extract lora"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that the LoRA is for. The LoRA is exact for this model with its present LoRAs; "
                    "load those too, in any order.",
                ),
                DELTA,
                *setting_inputs(DEFAULTS, TOOLTIPS, LIMITS, advanced=TOOLTIPS.keys() - {"form"}),
            ],
            outputs=[
                output(io.LoraModel, "lora", "The LoRA: connect it to Save LoRA Weights or Load LoRA Model."),
                output(io.String, "report", "Size and rank of the LoRA, and its error if it has one."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(
        cls, model, delta, form=WHOLE, energy=0.999, max_rank=0, spelling=COMFYUI, precision="fp32"
    ) -> io.NodeOutput:
        progress = node_progress(cls.hidden.unique_id)
        spell = portable_module(model) if spelling == PORTABLE else lambda key: key.removesuffix(".weight")
        settings = LoraSettings(*((1.0, 0) if form == WHOLE else (energy, max_rank)), PRECISIONS[precision])

        def changes():
            for key, W, changed, done, total in changed_weights(model, delta):
                progress("Projections", done, total)
                yield spell(key), changed - W

        lora, report = make_lora(changes(), settings)
        if not lora:
            raise HostError(
                "The delta changes no weight of the connected 'model', so there is no LoRA of it; connect a delta that "
                "erases something."
            )
        show_text(cls.hidden.unique_id, report.text())
        return io.NodeOutput(lora, report.text())


class TRCESaveDiffusers(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCESaveDiffusers",
            display_name="Save Erased Weights for Diffusers",
            category="model/trce",
            description="Saves the weights that an erasure changes, under diffusers' names, to the output folder: "
            "unet.load_state_dict(load_file(...), strict=False) erases in a diffusers pipeline of the same model.",
            search_aliases=["export diffusers", "partial state dict", "UCE", "ESD"],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The SD1.x, SD2.x or SDXL model to erase from, with any LoRAs already on it. The file "
                    "holds weights of this model, LoRAs included.",
                ),
                DELTA,
                filename_input("trce/erased_unet", "the output folder"),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(cls, model, delta, filename_prefix) -> io.NodeOutput:
        node_id = cls.hidden.unique_id
        name = write_diffusers(model, delta, filename_prefix, node_progress(node_id))
        show_text(node_id, f"Saved as {name}")
        return io.NodeOutput(ui={"text": [name]})
