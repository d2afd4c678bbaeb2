"""TRCE Erase: concepts in, a MODEL that no longer draws them out."""

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..trce_ops.closed_form.erase import EraseSettings, erase
from ..trce_ops.text.concepts import parse_concepts, parse_keep
from ..trce_ops.text.tokens import TokenWeights
from ..trce_ops.tuning.tune import tune_delta
from .host.apply import apply_delta
from .host.denoiser import tunable
from .host.encoders import text_encoders
from .host.folders import cache_folder
from .host.progress import node_progress, show_text
from .host.readers import find_text_readers
from .host.weights import metrics
from .tuning import CLOSED_FORM, show_curve, tune_settings, tuning_inputs
from .ui.bounds import within_bounds

DEFAULTS = EraseSettings()

ErasedDelta = io.Custom("ERASED_DELTA")

MODEL = io.Model.Input(
    "model",
    tooltip="The model to erase from, with any LoRAs already on it. It is not changed; an erased copy comes out.",
)
CLIP = io.Clip.Input(
    "clip",
    tooltip="The text encoder that your prompts go through, with its LoRAs and clip skip as you use them.",
)
STRENGTH = io.Float.Input(
    "strength",
    default=1.0,
    min=-2.0,
    max=2.0,
    step=0.05,
    advanced=True,
    tooltip="How much of the erasure goes on the model: 0 leaves it as it is, 1 erases, more "
    "overshoots, less than 0 draws more of the concept. The delta itself does not depend on it.",
)
ERASED = [  # what every way to erase gives first
    io.Model.Output(
        "erased_model",
        display_name="model",
        tooltip="The model with the concepts erased. Goes wherever a MODEL goes.",
    ),
    ErasedDelta.Output(
        "delta",
        display_name="delta",
        tooltip="The erasure alone: save it, or apply it to other models with the same text encoder.",
    ),
    io.String.Output(
        "report",
        display_name="report",
        tooltip="What was moved and what was kept, in figures, and how long it took.",
    ),
]


def _weight(role: str, default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(
        f"weight_{role}", default=default, min=0.0, max=10.0, step=0.05, advanced=True, tooltip=tooltip
    )


class TRCEErase(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRCEErase",
            display_name="TRCE Erase",
            category="model/trce",
            description="Makes a model stop drawing what you name. Solves for one matrix that reads the concept as "
            "something safe, and puts it on every projection that reads the text. Takes seconds, needs no images. On "
            "request it then tunes the attention on what the model draws, which takes minutes.",
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
            inputs=[
                MODEL,
                CLIP,
                io.String.Input(
                    "concepts",
                    multiline=True,
                    default="",
                    placeholder="Van Gogh -> a painting\na gun -> an umbrella\nblood\n# one per line; alone = "
                    "nothing in its place",
                    tooltip="What to erase, one per line: 'concept -> safe' draws the safe thing in its place, "
                    "'concept' alone aims at the empty prompt. Synonyms on lines of their own make the erasure "
                    "wider. '#' starts a comment.",
                ),
                io.String.Input(
                    "keep",
                    multiline=True,
                    default="",
                    placeholder="an umbrella\na water pistol\n# one caption per line",
                    tooltip="What must stay as it is, one caption per line. Name the things close to the concept; "
                    "everyday things are kept anyway.",
                ),
                STRENGTH,
                _weight(
                    "sot",
                    DEFAULTS.weights.sot,
                    "Weight of the start token. It is the same in every prompt, so raising this only holds it in "
                    "place harder.",
                ),
                _weight(
                    "keyword",
                    DEFAULTS.weights.keyword,
                    "Weight of each of the concept's own tokens. Raising it erases the words themselves harder, and "
                    "forgets related words sooner.",
                ),
                _weight(
                    "first_eot",
                    DEFAULTS.weights.first_eot,
                    "Weight of the first end-of-text token, which gathers the whole sentence. The paper moves this "
                    "one alone; raising it also catches phrasings that do not name the concept.",
                ),
                _weight(
                    "pads",
                    DEFAULTS.weights.pads,
                    "Weight of each padding token after the end of the text. Raising it erases harder, for they fill "
                    "most of the 77 tokens, and takes longer, for all of them have to be encoded.",
                ),
                io.Float.Input(
                    "preserve",
                    default=DEFAULTS.preserve,
                    min=0.0,
                    max=100.0,
                    step=0.001,
                    round=0.0001,
                    advanced=True,
                    tooltip="How hard everyday captions and the keep list hold on to what they mean. Raise it when "
                    "kept things change, lower it when the concept survives.",
                ),
                io.Float.Input(
                    "ridge",
                    default=DEFAULTS.ridge,
                    min=0.0,
                    max=100.0,
                    step=0.001,
                    round=0.000001,
                    advanced=True,
                    tooltip="How hard every direction of the text embedding resists change. Raise it when the solver "
                    "says that there is no unique solution; too high weakens the erasure.",
                ),
                io.Boolean.Input(
                    "templates",
                    default=DEFAULTS.templates,
                    advanced=True,
                    tooltip="On: erase the concept, and keep the keep list, inside everyday sentences ('a photo of "
                    "...'). Off: only the lines as they stand; use it for lines that are whole prompts.",
                ),
                *tuning_inputs(),
                io.Boolean.Input(
                    "metric",
                    default=DEFAULTS.metric,
                    optional=True,
                    advanced=True,
                    tooltip="On: tell the concept by what this model reads of the text, which erases more descriptions "
                    "and spares more of the rest. Off: by all directions of the embedding alike, as published; then "
                    "set 'preserve' to 1.",
                ),
            ],
            outputs=[
                *ERASED,
                io.LossMap.Output(
                    "loss_map",
                    display_name="loss_map",
                    tooltip="The loss of every step of the tuning, for Plot Loss Graph; nothing in mode 'closed form'.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @within_bounds
    def execute(
        cls,
        model,
        clip,
        concepts,
        keep,
        strength,
        weight_sot,
        weight_keyword,
        weight_first_eot,
        weight_pads,
        preserve,
        ridge,
        templates,
        mode=CLOSED_FORM,
        retrain=False,
        metric=False,  # API workflows of before it have no value for it, and their own 'preserve'
        **knobs,
    ) -> io.NodeOutput:
        readers = find_text_readers(model)
        pairs, kept = parse_concepts(concepts), parse_keep(keep)
        weights = TokenWeights(weight_sot, weight_keyword, weight_first_eot, weight_pads)
        settings = EraseSettings(weights, preserve, ridge, templates, metric)
        encoders = text_encoders(clip, readers)
        encoder = encoders.pop("context")
        tuning = None if mode == CLOSED_FORM else tune_settings(mode, knobs, metric)
        trainable = tuning and tunable(model, tuning.resolution)
        node_id, cache = cls.hidden.unique_id, cache_folder()
        progress = node_progress(node_id)
        delta, report = erase(
            pairs,
            kept,
            encoder,
            settings,
            family=readers.family,
            streams=encoders,
            metrics=metrics(model, readers).by_kind if metric else {},
            space=readers.space,
            cache_dir=cache,
            progress=progress,
        )
        text, losses, shown = report.text(), ExecutionBlocker(None), {}
        if readers.row.leaks:
            text += f"\nNot reached: {readers.row.leaks}."
        if tuning:
            delta, tuned = tune_delta(
                delta,
                encoder,
                trainable,
                tuning,
                pooled=encoders.get("pooled"),
                cache_dir=cache,
                retrain=retrain,
                progress=progress,
            )
            text = f"{text}\n{tuned.text()}"
            losses = {"loss": list(tuned.tuning.losses)}
            shown = show_curve(tuned, cls)
        show_text(node_id, text)
        return io.NodeOutput(apply_delta(model, delta, strength), delta, text, losses, ui={"text": [text], **shown})
