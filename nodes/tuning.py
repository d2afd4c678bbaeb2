"""The tuning half of TRCE Erase: its modes, its widgets and its preview."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io, ui

from ..trce_ops.tuning.factors import TRAINED
from ..trce_ops.tuning.settings import ALIKE, LOSSES, PAPER, QUICK, TuneSettings
from ..trce_ops.tuning.tune import TuneReport
from .ui.curve import draw_curves

CLOSED_FORM = "closed form"
QUICKLY = "closed form + tuning (quick)"
CUSTOM = "custom"
PRESETS = {QUICKLY: QUICK, "closed form + tuning (paper)": PAPER, CUSTOM: QUICK}
SHARED = ("resolution", "seed")  # knobs that count in every mode that tunes


def _knob(kind, name: str, tooltip: str, **options):
    """A widget for a field of TuneSettings, with its default. Optional: workflows of before it have no value for it."""
    counts = "In every mode that tunes. " if name in SHARED else "In mode 'custom'. "
    return kind(
        f"tune_{name}",
        default=getattr(QUICK, name),
        tooltip=counts + tooltip,
        optional=True,
        advanced=True,
        **options,
    )


def tuning_inputs() -> list[io.Input]:
    """What TRCE Erase asks about tuning."""
    return [
        io.Combo.Input(
            "mode",
            options=[CLOSED_FORM, *PRESETS],
            default=CLOSED_FORM,
            optional=True,
            tooltip="'closed form': seconds, changes how the text is read. The others then tune the attention on "
            "what the model draws, which also catches phrasings that do not name the concept, and takes minutes on a "
            "GPU: 'quick' as measured best on the demo model, 'paper' as published, 'custom' with the 'tune_' "
            "settings below. For a colour or a style, name in 'keep' what shows it (a car, a dress).",
        ),
        _knob(
            io.Int.Input,
            "steps",
            "Steps of training. More erase harder and take longer; 0 does not tune.",
            min=0,
            max=10000,
        ),
        _knob(
            io.Float.Input,
            "learning_rate",
            "Size of a step; it falls to 0 towards the last one. Raise it when the report says that the weights "
            "changed by less than 1 %, lower it when kept things change. The paper's 1e-6 is for whole matrices "
            "of SD1.4.",
            min=0.0,
            max=1.0,
            step=1e-6,
            round=False,
        ),
        _knob(
            io.Combo.Input,
            "loss",
            "'tau' pushes every prediction to 'tune_goal' and stops there. 'hinge' is the "
            "paper's, with 'tune_beta' and 'tune_margin'; it pushes harder and does not know when to stop.",
            options=list(LOSSES),
        ),
        _knob(
            io.Float.Input,
            "goal",
            "Where loss 'tau' stops: 0 = on the concept, 1 = on the safe target. More than "
            "1 overshoots: nothing of the concept is left, but the safe target loses its shape.",
            min=0.0,
            max=5.0,
            step=0.05,
        ),
        _knob(
            io.Float.Input,
            "beta",
            "Loss 'hinge': how far beyond the prompts its two goals lie. Raising it acts "
            "like lowering 'tune_preserve'.",
            min=0.0,
            max=100.0,
            step=0.5,
        ),
        _knob(
            io.Float.Input,
            "margin",
            "Loss 'hinge': how much nearer the safe goal has to be. Raising it pushes on for longer.",
            min=0.0,
            max=10.0,
            step=0.01,
            round=0.0001,
        ),
        _knob(
            io.Float.Input,
            "preserve",
            "How hard the empty prompt and the keep list hold on to what they draw. "
            "Raise it when kept things change, lower it when the concept survives. 3 suits loss 'tau', 100 'hinge'.",
            min=0.0,
            max=100000.0,
            step=0.5,
        ),
        _knob(
            io.Float.Input,
            "reach",
            "How far beyond the written prompts to tune. 0 tunes on what the closed form makes of them; 1 also on "
            "what it would leave if it did next to nothing, where phrasings that do not name the concept end up.",
            min=0.0,
            max=1.0,
            step=0.05,
        ),
        _knob(
            io.Float.Input,
            "unconditional",
            "How much of the loss is on what the model draws without a prompt, begun from the unwanted pictures. The "
            "paper's is 0.5; under guidance it works against the rest of the loss.",
            min=0.0,
            max=1.0,
            step=0.05,
        ),
        _knob(
            io.Float.Input,
            "early",
            "Share of the sampling steps to tune on, from the noisy end. 1 tunes all of "
            "them: erases harder, and changes details too.",
            min=0.05,
            max=1.0,
            step=0.05,
        ),
        _knob(
            io.Combo.Input,
            "projections",
            "What is trained. 'text': keys and values of cross-attention, where the text comes in; erases more and "
            "keeps more on the demo model. 'cross': its queries too. 'paper': self-attention and the queries of "
            "cross-attention. 'wide': everything.",
            options=list(TRAINED),
        ),
        _knob(
            io.Int.Input,
            "rank",
            "Rank of the change. Low ranks make small files and keep the rest better; 0 "
            "trains whole matrices, as the paper does.",
            min=0,
            max=256,
        ),
        _knob(
            io.Int.Input,
            "trajectories",
            "How many unwanted pictures are begun to learn from. More cover more phrasings and take longer to prepare.",
            min=1,
            max=1000,
        ),
        _knob(
            io.Int.Input,
            "resolution",
            "Size of the pictures to learn from, in pixels. Set it to what the model "
            "draws: 512 for SD1.x, 768 for the larger SD2.x, 64 for the demo model.",
            min=32,
            max=2048,
            step=8,
        ),
        _knob(
            io.Int.Input,
            "batch",
            "Unwanted points in every step. More make steadier and slower steps; memory "
            "stays the same, for the pack halves what it holds at once when there is too little.",
            min=1,
            max=64,
        ),
        _knob(
            io.Int.Input,
            "seed",
            "Seed of all that is random in tuning. The same seed gives the same delta.",
            min=0,
            max=0xFFFFFFFF,
        ),
        io.Boolean.Input(
            "retrain",
            default=False,
            optional=True,
            advanced=True,
            tooltip="On: tune again although the same tuning has been done before and is kept on disk, and replace "
            "what is kept.",
        ),
    ]


def tune_settings(mode: str, knobs: dict, metric: bool = True) -> TuneSettings:
    """The preset of a mode with the user's knobs, as far as they count in it; metric: see TuneSettings."""
    given = {name.removeprefix("tune_"): value for name, value in knobs.items()}
    preset = PRESETS[mode] if metric else replace(ALIKE if mode == QUICKLY else PRESETS[mode], metric=False)
    return replace(preset, **{name: value for name, value in given.items() if mode == CUSTOM or name in SHARED})


def show_curve(report: TuneReport, node) -> dict:
    """The course of the tuning as a preview on the node; nothing where there was no step."""
    tuning = report.tuning
    if not tuning.losses:
        return {}
    picture = draw_curves({"loss": tuning.losses, "place (1 = safe target)": tuning.positions})
    # Not ui.PreviewImage, which draws its file name from the global random numbers.
    files = ui.ImageSaveHelper.save_images(picture, "trce_tuning", io.FolderType.temp, node, compress_level=1)
    return {"images": files, "animated": (False,)}
