"""Erasure Report: pictures and figures of the same prompts and seeds before and after an erasure."""

from __future__ import annotations

from comfy_api.latest import io

from ..trce_ops.evaluation.comparison import CONCEPT, KEPT, report_text
from .host.errors import HostError
from .host.progress import node_progress, show_text
from .host.sampling import SAMPLERS, SCHEDULERS, Sampling, compare
from .inputs import output, setting_inputs, text_input
from .ui.bounds import within_bounds
from .ui.contact_sheet import draw_sheet
from .ui.lists import lines

MAX_PROMPTS = 64
TOOLTIPS = {
    "steps": "Sampling steps, as in KSampler.",
    "cfg": "Guidance, as in KSampler.",
    "sampler_name": "Sampler, as in KSampler. Samplers that add noise also change pictures by chance.",
    "scheduler": "Noise schedule, as in KSampler.",
    "width": "Width of the pictures in pixels.",
    "height": "Height of the pictures in pixels.",
    "thumbnail": "Longer side of every picture on the contact sheet, in pixels.",
}
LIMITS = {
    "steps": (1, 1000),
    "cfg": (0.0, 100.0, 0.1, 0.01),
    "sampler_name": SAMPLERS,
    "scheduler": SCHEDULERS,
    "width": (16, 8192, 8),
    "height": (16, 8192, 8),
    "thumbnail": (32, 2048),
}


class TRCEReport(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEReport",
            display_name="Erasure Report",
            category="model/trce",
            description="Draws the same prompts and seeds with a model before and after an erasure, side by side, and "
            "measures how far concept prompts and kept prompts moved on this model.",
            search_aliases=["compare", "before after", "contact sheet", "evaluate", "erase concept", "unlearn"],
            inputs=[
                io.Model.Input("before", tooltip="The model before the erasure. It is not changed."),
                io.Model.Input("after", tooltip="The model after the erasure. It is not changed."),
                io.Clip.Input("clip", tooltip="The text encoder for the prompts below."),
                io.Vae.Input("vae", tooltip="The VAE that decodes the pictures."),
                text_input(
                    "concept_prompts",
                    "a photo of a cigarette\nrolled tobacco to smoke",
                    "Prompts for what was erased, one per line. Add descriptions that do not name it.",
                ),
                text_input(
                    "kept_prompts",
                    "a photo of a lollipop\na portrait of a woman",
                    "Prompts for what must stay, one per line: things close to the concept, and everyday ones.",
                ),
                io.String.Input(
                    "negative",
                    default="",
                    tooltip="The negative prompt of all pictures. 'Prediction' is measured against it.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the first picture of every prompt; the next ones count up from it.",
                ),
                io.Int.Input(
                    "seeds", default=2, min=1, max=16, tooltip="How many pictures of every prompt, before and after."
                ),
                *setting_inputs(vars(Sampling()) | {"thumbnail": 192}, TOOLTIPS, LIMITS, advanced=("thumbnail",)),
            ],
            outputs=[
                output(
                    io.Image,
                    "sheet",
                    "One picture: a row for each prompt, before and after side by side for every seed.",
                ),
                output(
                    io.String,
                    "report",
                    "How far the predictions and the pictures moved, for concept prompts and for kept ones.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(
        cls, before, after, clip, vae, concept_prompts, kept_prompts, negative, seed, seeds, thumbnail=192, **sampling
    ) -> io.NodeOutput:
        prompts = [(CONCEPT, line) for line in lines(concept_prompts)] + [(KEPT, line) for line in lines(kept_prompts)]
        if not prompts or len(prompts) > MAX_PROMPTS:
            raise HostError(
                f"'concept_prompts' and 'kept_prompts' have {len(prompts)} lines together; write 1 to {MAX_PROMPTS}."
            )
        node_id = cls.hidden.unique_id
        numbers = [(seed + i) % 2**64 for i in range(seeds)]
        progress = node_progress(node_id)
        rows, changes = compare((before, after), vae, clip, prompts, negative, numbers, Sampling(**sampling), progress)
        text = report_text(changes)
        show_text(node_id, text)
        return io.NodeOutput(draw_sheet(rows, thumbnail), text)
