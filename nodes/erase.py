"""TRCE Erase: concepts in, a MODEL that no longer draws them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..trce_ops.delta.file import ErasedDelta
from ..trce_ops.methods.job import Job
from ..trce_ops.methods.trce import BOTH, BOTH_ROBUST, TrceSettings, erase_and_tune
from ..trce_ops.methods.trce import CLOSED_FORM as CLOSED
from ..trce_ops.text.concepts import ConceptPair, parse_concepts, parse_keep
from ..trce_ops.tuning.settings import ROBUST as ROBUST_TUNING
from ..trce_ops.tuning.settings import WITHOUT_METRIC as QUICK_WITHOUT_METRIC
from ..trce_ops.tuning.tune import TuneReport
from .host.apply import apply_delta
from .host.denoiser import drawn_resolution
from .host.folders import cache_folder
from .host.lend import lend
from .host.limits import limits
from .host.progress import node_progress, show_text
from .inputs import CLIP, ERASED, KEEP, MODEL, STRENGTH, concepts_input, output, settings_from
from .settings import Settings, TrceSettingsType
from .ui.bounds import within_bounds
from .ui.curve import show_tuning

CLOSED_FORM, TUNED, ROBUST = "closed form", "tuned", "robust"
MODES = {CLOSED_FORM: CLOSED, TUNED: BOTH, ROBUST: BOTH_ROBUST}
WITHOUT_METRIC = {TUNED: QUICK_WITHOUT_METRIC, ROBUST: replace(ROBUST_TUNING, metric=False)}
MODE = io.Combo.Input(
    "mode",
    options=list(MODES),
    default=CLOSED_FORM,
    optional=True,
    tooltip="'closed form' takes seconds and changes how the text is read. 'tuned' then trains the model as well: this "
    "also erases what is only described, and takes minutes. 'robust' trains more of the model, so that a "
    "learned word brings the concept back less often; it changes more of the rest. For a colour or a style, choose a "
    "safe target of the same kind.",
)
SETTINGS = TrceSettingsType.Input(
    "settings",
    optional=True,
    tooltip="Connect TRCE Settings to change how the concepts are erased. Without it, the defaults are used.",
)
LOSSES = output(
    io.LossMap,
    "loss_map",
    "The loss of every training step, for Plot Loss Graph, which does not run after fewer than two steps or in mode "
    "'closed form'.",
)


class TRCEErase(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEErase",
            display_name="TRCE Erase",
            category="model/trce",
            description="Makes a model stop drawing what you name. It computes one matrix that maps the concept to "
            "a safe target, and applies it where the model reads the text. This takes seconds and needs no images. "
            "The modes 'tuned' and 'robust' also train the model, which takes minutes.",
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
            inputs=[MODEL, CLIP, concepts_input(), KEEP, MODE, STRENGTH, SETTINGS],
            outputs=[*ERASED, LOSSES],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    @within_bounds
    def execute(cls, model, clip, concepts, keep="", mode=CLOSED_FORM, strength=1.0, settings=None) -> io.NodeOutput:
        settings = settings_from(settings, Settings, "TRCE Settings")
        job = job_of(lend(model, clip), parse_concepts(concepts), parse_keep(keep), settings, cls.hidden.unique_id)
        delta, report, tuned = erase_and_tune(job, chosen(model, mode, settings))
        lines = [report.text(), *limits(model, delta, clip, concepts, cls.hidden.prompt)]
        if not job.keep:
            lines.append("'keep' is empty: what is close to the concepts may change with them. Name it there.")
        return shown(cls, apply_delta(model, delta, strength), delta, lines, tuned)


def chosen(model, mode: str, settings: Settings) -> TrceSettings:
    """The settings of both stages for a mode."""
    found = MODES[mode]
    if settings.closed_form:
        found = replace(found, closed_form=settings.closed_form)
    if found.tuning:
        default = found.tuning if found.closed_form.metric else WITHOUT_METRIC[mode]
        given = {"seed": settings.seed, "resolution": settings.resolution or drawn_resolution(model)}
        found = replace(found, tuning=replace(settings.tuning or default, **given))
    return found


def job_of(lent: dict, pairs: Sequence[ConceptPair], keep: Sequence[str], settings: Settings, node_id: str) -> Job:
    """What to erase, from what `lend` gives."""
    progress = node_progress(node_id)
    return Job(pairs, keep, cache_dir=cache_folder(), retrain=settings.retrain, progress=progress, **lent)


def shown(
    node: type[io.ComfyNode], erased_model, delta: ErasedDelta, lines: Sequence[str], tuned: TuneReport | None
) -> io.NodeOutput:
    """The outputs of a node that erases by TRCE, with its report and curves on the node."""
    text, losses, curves = "\n".join(lines), ExecutionBlocker(None), {}
    if tuned:
        text += f"\n{tuned.text()}"
        if len({*tuned.tuning.losses}) > 1:  # Plot Loss Graph divides by their range
            losses = {"loss": list(tuned.tuning.losses)}
        curves = show_tuning(tuned.tuning, node)
    show_text(node.hidden.unique_id, text)
    return io.NodeOutput(erased_model, delta, text, losses, ui={"text": [text], **curves})
