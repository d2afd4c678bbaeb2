"""Erase by Another Method: the inputs of TRCE Erase, other published methods."""

from __future__ import annotations

from comfy_api.latest import io

from ..trce_ops.methods.registry import erase_with
from ..trce_ops.text.concepts import parse_concepts, parse_keep
from .host.apply import apply_delta
from .host.denoiser import drawn_resolution
from .host.errors import HostError
from .host.folders import cache_folder
from .host.lend import lend
from .host.limits import limits
from .host.progress import node_progress, show_text
from .inputs import CLIP, ERASED, KEEP, MODEL, STRENGTH, concepts_input, settings_from
from .method_settings import OFFERED, MethodSettings, MethodSettingsType
from .ui.bounds import within_bounds


class TRCEEraseByMethod(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEEraseByMethod",
            display_name="Erase by Another Method",
            category="model/trce",
            description="Erases as other papers do, to compare with TRCE Erase: UCE, RECE, MACE, RealEra, SPEED, "
            "LEACE, ESD and EraseAnything, each written from its equations. Its delta works wherever one of TRCE Erase "
            "does.",
            search_aliases=["UCE", "RECE", "MACE", "RealEra", "SPEED", "LEACE", "ESD", "EraseAnything", "unlearn"],
            inputs=[
                MODEL,
                CLIP,
                concepts_input(),
                KEEP,
                io.Combo.Input(
                    "method",
                    options=OFFERED,
                    default="uce",
                    optional=True,
                    tooltip="How to erase. ESD and EraseAnything train, which takes minutes; all others take seconds. "
                    "ESD ignores 'keep', and LEACE, ESD and EraseAnything ignore the safe targets. EraseAnything is "
                    "for SD3, Flux, Flux.2, Chroma, Qwen-Image and HunyuanVideo.",
                ),
                STRENGTH,
                MethodSettingsType.Input(
                    "settings",
                    optional=True,
                    tooltip="Connect Method Settings for the same method to change its settings. Without it, "
                    "its defaults are used: the values of its paper where they carry over, or else what measured best "
                    "on the demo model.",
                ),
            ],
            outputs=ERASED,
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    @within_bounds
    def execute(cls, model, clip, concepts, keep="", method="uce", strength=1.0, settings=None) -> io.NodeOutput:
        settings = settings_from(settings, MethodSettings, "Method Settings")
        if settings.method not in ("", method):
            raise HostError(
                f"'method' of Erase by Another Method is '{method}', but 'method' of Method Settings is "
                f"'{settings.method}'; choose the same in both, or disconnect 'settings'."
            )
        node_id = cls.hidden.unique_id
        delta, report = erase_with(
            method,
            parse_concepts(concepts),
            parse_keep(keep),
            settings=settings.of(method, drawn_resolution(model)),
            cache_dir=cache_folder(),
            progress=node_progress(node_id),
            **lend(model, clip, remedy="choose another 'method', such as uce"),
        )
        erased = apply_delta(model, delta, strength)
        text = "\n".join([report.text(), *limits(model, delta, clip, concepts, cls.hidden.prompt)])
        show_text(node_id, text)
        return io.NodeOutput(erased, delta, text, ui={"text": [text]})
