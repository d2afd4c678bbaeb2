"""Taking an erasure elsewhere: Delta to LoRA, and Save Erased Weights for diffusers."""

import torch
from comfy_api.latest import io

from ..trce_ops.delta.lora import LoraSettings, make_lora
from .host.errors import HostError
from .host.exchange import write_diffusers
from .host.progress import node_progress, show_text
from .host.weight_names import portable_module
from .host.weights import changed_weights
from .inputs import ErasedDelta
from .ui.bounds import within_bounds

WHOLE, LOW_RANK = "whole (exact)", "low rank"
COMFYUI, PORTABLE = "ComfyUI (every model)", "portable (SD1.x, SD2.x, SDXL)"
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TRCEDeltaToLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEDeltaToLoRA",
            display_name="Delta to LoRA",
            category="model/trce",
            description="Turns an erasure into a LoRA for one model, for programs and nodes that know LoRAs and not "
            "deltas. Save it with Save LoRA Weights; Load LoRA then erases without this pack.",
            search_aliases=["export lora", "erasure to lora", "convert delta", "extract lora"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that the LoRA is for. It holds for this model with the LoRAs that are on it "
                    "here; load it after those, in any order.",
                ),
                ErasedDelta.Input("delta", tooltip="The erasure, from TRCE Erase or Load Erased Delta."),
                io.Combo.Input(
                    "form",
                    options=[WHOLE, LOW_RANK],
                    default=WHOLE,
                    tooltip="'whole': one matrix for every projection, 77 MB for SD1.x in fp32, exact. 'low rank': "
                    "factors, often smaller, with the error in the report.",
                ),
                io.Float.Input(
                    "energy",
                    default=0.999,
                    min=0.5,
                    max=0.999999,
                    step=0.001,
                    round=0.000001,
                    advanced=True,
                    tooltip="Form 'low rank': how much of every change its factors keep, as a share of its squared "
                    "size. Raising it makes the file larger and the error smaller.",
                ),
                io.Int.Input(
                    "max_rank",
                    default=0,
                    min=0,
                    max=4096,
                    advanced=True,
                    tooltip="Form 'low rank': no factors beyond this rank, whatever the error; 0 sets no limit.",
                ),
                io.Combo.Input(
                    "spelling",
                    options=[COMFYUI, PORTABLE],
                    default=COMFYUI,
                    advanced=True,
                    tooltip="How the projections are named. 'ComfyUI' works here for every model, 'portable' "
                    "(lora_unet_...) here and in other programs that read kohya's LoRAs.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="fp32",
                    advanced=True,
                    tooltip="The type of the numbers in the LoRA. fp16 halves the file; what it loses is in the "
                    "report.",
                ),
            ],
            outputs=[
                io.LoraModel.Output(
                    "lora",
                    display_name="lora",
                    tooltip="The LoRA: connect it to Save LoRA Weights or Load LoRA Model.",
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="Size and rank of the LoRA, and its error if it has one."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(cls, model, delta, form, energy, max_rank, spelling, precision) -> io.NodeOutput:
        node_id = cls.hidden.unique_id
        progress = node_progress(node_id)
        spell = portable_module(model) if spelling == PORTABLE else lambda key: key.removesuffix(".weight")
        settings = LoraSettings(*((1.0, 0) if form == WHOLE else (energy, max_rank)), PRECISIONS[precision])

        def changes():
            for key, W, changed, done, total in changed_weights(model, delta):
                progress("Projections", done, total)
                yield spell(key), changed - W

        lora, report = make_lora(changes(), settings)
        if not lora:
            raise HostError(
                "The delta changes no weight of the connected 'model', so that there is no LoRA of it; connect a delta "
                "that erases."
            )
        show_text(node_id, report.text())
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
                    tooltip="The SD1.x, SD2.x or SDXL model to erase in, with any LoRAs already on it. The file "
                    "holds weights of this model, LoRAs included.",
                ),
                ErasedDelta.Input("delta", tooltip="The erasure, from TRCE Erase or Load Erased Delta."),
                io.String.Input(
                    "filename_prefix",
                    default="trce/erased_unet",
                    tooltip="Name of the file in the output folder, sub-folders allowed. A number is added; no file "
                    "is ever overwritten.",
                ),
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
