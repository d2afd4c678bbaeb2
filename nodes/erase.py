"""TRCE Erase: concepts in, a MODEL that no longer draws them out."""

from __future__ import annotations

import logging
from dataclasses import replace

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..trce_ops.methods.job import Job
from ..trce_ops.methods.trce import BOTH, erase_and_tune
from ..trce_ops.methods.trce import CLOSED_FORM as CLOSED
from ..trce_ops.text.concepts import parse_concepts, parse_keep, unlike_prompts
from .host.apply import apply_delta
from .host.denoiser import drawn_resolution
from .host.folders import cache_folder
from .host.lend import lend
from .host.limits import limits
from .host.progress import node_progress, show_text
from .inputs import ERASED, erasing_inputs, output, settings_from
from .settings import Settings, TrceSettingsType
from .ui.bounds import within_bounds
from .ui.curve import show_tuning

log = logging.getLogger(__name__)

CLOSED_FORM, TUNED = "closed form", "tuned"


class TRCEErase(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEErase",
            display_name="TRCE Erase",
            category="model/trce",
            description="Makes a model stop drawing what you name. It computes one matrix that maps the concept to "
            "a safe target, and applies it to every weight that reads the text. This takes seconds and needs no "
            "images. In mode 'tuned' it also trains cross-attention on early denoising steps, which takes minutes.",
            search_aliases=[
                "unlearn",
                "remove concept",
                "erase concept",
                "forget",
                "ESD",
                "UCE",
                "LECO",
                "safety",
                "negative concept",
            ],
            inputs=erasing_inputs(
                io.Combo.Input(
                    "mode",
                    options=[CLOSED_FORM, TUNED],
                    default=CLOSED_FORM,
                    optional=True,
                    tooltip="'closed form' takes seconds and changes how the text is read. 'tuned' then trains the "
                    "model as well: this also erases what is only described, and takes minutes on a GPU. For a colour "
                    "or a style, name in 'keep' what shows it (a car, a dress).",
                ),
                TrceSettingsType.Input(
                    "settings",
                    optional=True,
                    tooltip="Connect TRCE Settings to change how the concepts are erased. Without it, the defaults are "
                    "used.",
                ),
            ),
            outputs=[
                *ERASED,
                output(
                    io.LossMap,
                    "loss_map",
                    "The loss of every training step, for Plot Loss Graph. Empty in mode 'closed form'.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(cls, model, clip, concepts, keep="", mode=CLOSED_FORM, strength=1.0, settings=None) -> io.NodeOutput:
        settings = settings_from(settings, Settings, "TRCE Settings")
        chosen = CLOSED if mode == CLOSED_FORM else BOTH
        if settings.closed_form:
            chosen = replace(chosen, closed_form=settings.closed_form)
        if mode == TUNED:
            resolution = settings.resolution or drawn_resolution(model)
            chosen = replace(chosen, tuning=replace(settings.tuning, resolution=resolution))
        node_id = cls.hidden.unique_id
        lent = lend(model, clip)
        job = Job(
            parse_concepts(concepts),
            parse_keep(keep),
            {"context": lent.pop("encoder"), **lent.pop("streams")},
            cache_dir=cache_folder(),
            retrain=settings.retrain,
            progress=node_progress(node_id),
            **lent,
        )
        delta, report, tuned = erase_and_tune(job, chosen)
        escapes = unlike_prompts(concepts)
        for line in escapes:
            log.warning("%s", line)
        lines = [report.text(), *limits(model, delta, clip), *escapes]
        text, losses, shown = "\n".join(lines), ExecutionBlocker(None), {}
        if tuned:
            text += f"\n{tuned.text()}"
            losses = {"loss": list(tuned.tuning.losses)}
            shown = show_tuning(tuned.tuning, cls)
        show_text(node_id, text)
        return io.NodeOutput(apply_delta(model, delta, strength), delta, text, losses, ui={"text": [text], **shown})
