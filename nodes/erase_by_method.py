"""Erase by Another Method: what TRCE Erase does, done as its neighbours do it."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..trce_ops.methods import speed
from ..trce_ops.methods.registry import METHODS, erase_with
from ..trce_ops.text.concepts import parse_concepts, parse_keep
from .erase import CLIP, ERASED, MODEL, STRENGTH
from .host.apply import apply_delta
from .host.folders import cache_folder
from .host.lend import lend
from .host.progress import node_progress, show_text
from .ui.bounds import within_bounds


def _widget(kind, method: str, name: str, tooltip: str, **options) -> io.Input:
    """A widget for a field of a method's settings, with its default."""
    default = getattr(METHODS[method].settings, name)
    return kind(name, default=default, advanced=True, tooltip=tooltip, **options)


def _weight(method: str, name: str, tooltip: str) -> io.Input:
    return _widget(io.Float.Input, method, name, tooltip, min=0.0, max=1000.0, step=0.001, round=0.000001)


def _count(method: str, name: str, tooltip: str, least: int = 0, most: int = 10000) -> io.Input:
    return _widget(io.Int.Input, method, name, tooltip, min=least, max=most)


def _cosine(method: str, name: str, tooltip: str) -> io.Input:
    return _widget(io.Float.Input, method, name, tooltip, min=-1.0, max=1.0, step=0.01)


def _seed(method: str) -> io.Input:
    return _count(
        method, "seed", "Seed of all that is random in it. The same seed gives the same delta.", 0, 0xFFFFFFFF
    )


EVERYDAY = "lambda_1. Weight of everyday captions and 'keep'. Raise it when kept things change."
LISTED = "lambda_1. Weight of each line of 'keep'. Raise it when kept things change."
RIDGE = "lambda_2. How hard all weights resist change. Raise it when pictures break."

SETTINGS = {  # those that matter, of the methods that have any
    "uce": [
        _weight("uce", "erase", "eta. Weight of each concept. Raising it erases harder."),
        _weight("uce", "preserve", LISTED),
        _weight("uce", "ridge", RIDGE),
        _widget(io.Boolean.Input, "uce", "expand", "On: erase 'image of ...', 'photo of ...' and such too."),
    ],
    "rece": [
        _count("rece", "rounds", "Rounds of finding what brings the concept back, and erasing that.", 0, 100),
        _weight("rece", "reach", "lambda of the attack. The smaller, the farther it may go from real text."),
        _weight("rece", "preserve", LISTED),
        _weight("rece", "ridge", RIDGE),
    ],
    "mace": [_weight("mace", "preserve", EVERYDAY), _weight("mace", "ridge", RIDGE)],
    "realera": [
        _count("realera", "neighbours", "Points drawn around every embedding of the concept.", 0, 100),
        _cosine("realera", "near", "S_1. Lowest cosine to the concept at which a point is erased with it."),
        _cosine("realera", "far", "Lowest cosine of the points beyond that are kept."),
        _weight("realera", "beyond", "Weight of the points beyond, against that of everyday captions."),
        _weight("realera", "preserve", EVERYDAY),
        _weight("realera", "ridge", RIDGE),
        _seed("realera"),
    ],
    "speed": [
        _widget(
            io.Combo.Input, "speed", "params", "Which projections: values, keys or both.", options=list(speed.PARAMS)
        ),
        _widget(
            io.Combo.Input,
            "speed",
            "tokens",
            "'subject': the last token of every concept stands for it. 'all': every token of the prompt.",
            options=list(speed.TOKENS),
        ),
        _weight("speed", "preserve", "rho. How hard all weights resist change. Must be above 0."),
        _weight("speed", "ridge", "mu. Slack for the empty prompt, which else does not move at all."),
        _weight(
            "speed",
            "threshold",
            "Directions in which kept text is smaller than this are free to change. Raising it erases harder and "
            "keeps less exactly.",
        ),
        _widget(io.Boolean.Input, "speed", "filtered", "On: keep only what would change most."),
        _count("speed", "augment", "Points drawn around every kept embedding.", 0, 100),
        _seed("speed"),
    ],
    "leace": [
        _weight("leace", "shrinkage", "How much the covariance of the text is drawn towards a round one."),
        _widget(io.Boolean.Input, "leace", "affine", "On: with the constant term, so that the mean of all text stays."),
    ],
    "esd": [
        _weight("esd", "negative_guidance", "eta. How far to go away from the concept."),
        _count("esd", "steps", "Steps of training. More erase harder and take longer."),
        _widget(
            io.Float.Input,
            "esd",
            "learning_rate",
            "Size of a step; the right one depends on the model. The paper's is 5e-5.",
            min=0.0,
            max=1.0,
            step=1e-6,
            round=False,
        ),
        _widget(
            io.Combo.Input,
            "esd",
            "projections",
            "'text': keys and values of cross-attention (ESD-x-strict). 'cross': its queries too.",
            options=["text", "cross"],
        ),
        _count("esd", "trajectories", "How many unwanted pictures are begun to learn from.", 1, 1000),
        _widget(
            io.Int.Input,
            "esd",
            "resolution",
            "Size of the pictures to learn from, in pixels: 512 for SD1.x, 64 for the demo model.",
            min=32,
            max=2048,
            step=8,
        ),
        _seed("esd"),
    ],
}
OFFERED = [name for name in METHODS if name not in ("trce", "trce-closed-form")]  # which TRCE Erase does


class TRCEEraseByMethod(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEEraseByMethod",
            display_name="Erase by Another Method",
            category="model/trce",
            description="Erases as other papers do, to compare with TRCE Erase: UCE, RECE, MACE, RealEra, SPEED, LEACE "
            "and ESD, each written from its equations. The delta goes wherever one of TRCE Erase goes.",
            search_aliases=["UCE", "RECE", "MACE", "RealEra", "SPEED", "LEACE", "ESD", "unlearn", "baseline"],
            inputs=[
                MODEL,
                CLIP,
                io.String.Input(
                    "concepts",
                    multiline=True,
                    default="",
                    placeholder="Van Gogh -> a painting\na gun -> an umbrella\nblood",
                    tooltip="What to erase, one per line, as in TRCE Erase. LEACE and ESD do not aim at what stands "
                    "behind the arrow.",
                ),
                io.String.Input(
                    "keep",
                    multiline=True,
                    default="",
                    placeholder="an umbrella\na water pistol",
                    tooltip="What must stay as it is, one caption per line, as in TRCE Erase. ESD keeps nothing.",
                ),
                io.DynamicCombo.Input(
                    "method",
                    options=[io.DynamicCombo.Option(name, SETTINGS.get(name, [])) for name in OFFERED],
                    tooltip="How to erase. ESD trains, which takes minutes; all others take seconds.",
                ),
                STRENGTH,
            ],
            outputs=ERASED,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(cls, model, clip, concepts, keep, method, strength=1.0) -> io.NodeOutput:
        given = dict(method)
        name = given.pop("method")
        settings = replace(METHODS[name].settings, **given)
        pairs, kept = parse_concepts(concepts), parse_keep(keep)
        node_id = cls.hidden.unique_id
        delta, report = erase_with(
            name,
            pairs,
            kept,
            settings=settings,
            cache_dir=cache_folder(),
            progress=node_progress(node_id),
            **lend(model, clip),
        )
        erased, text = apply_delta(model, delta, strength), report.text()
        show_text(node_id, text)
        return io.NodeOutput(erased, delta, text, ui={"text": [text]})
