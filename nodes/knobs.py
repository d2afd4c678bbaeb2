"""The knobs of TRCE Settings: one widget for each setting of the closed form and of tuning."""

from __future__ import annotations

from comfy_api.latest import io

from ..trce_ops.closed_form.erase import EraseSettings
from ..trce_ops.tuning.factors import TRAINED
from ..trce_ops.tuning.settings import LOSSES, QUICK
from .inputs import knob

CLOSED_FORM = EraseSettings()


def _weight(role: str, tooltip: str) -> io.Input:
    return io.Float.Input(
        f"weight_{role}",
        default=getattr(CLOSED_FORM.weights, role),
        min=0.0,
        max=10.0,
        step=0.05,
        optional=True,
        tooltip=tooltip,
    )


CLOSED_FORM_KNOBS = [
    _weight(
        "sot",
        "Weight of the start token. It is the same in every prompt, so raising this only makes it harder to move.",
    ),
    _weight(
        "keyword",
        "Weight of each of the concept's own tokens. Raising it erases the words themselves harder, and damages "
        "related words sooner.",
    ),
    _weight(
        "first_eot",
        "Weight of the first end-of-text token, which sums up the whole prompt. Raising it also catches prompts that "
        "do not name the concept. The paper moves this token alone.",
    ),
    _weight(
        "pads",
        "Weight of each padding token after the end of the text. Raising it erases harder, because padding fills most "
        "of the 77 tokens, and takes longer, because all of them are encoded.",
    ),
    knob(
        io.Float.Input,
        CLOSED_FORM,
        "preserve",
        "How strongly everyday captions and the keep list are preserved. Raise it when kept things change, lower it "
        "when the concept survives.",
        min=0.0,
        max=100.0,
        step=0.001,
        round=0.0001,
    ),
    knob(
        io.Float.Input,
        CLOSED_FORM,
        "ridge",
        "How strongly every direction of the text embedding resists change. Raise it when the solver reports that "
        "there is no unique solution; too high a value weakens the erasure.",
        min=0.0,
        max=100.0,
        step=0.001,
        round=0.000001,
    ),
    knob(
        io.Boolean.Input,
        CLOSED_FORM,
        "templates",
        "On: erase the concept, and preserve the keep list, inside everyday sentences ('a photo of ...'). Off: use the "
        "lines as they are written; choose this for lines that are whole prompts.",
    ),
    knob(
        io.Boolean.Input,
        CLOSED_FORM,
        "metric",
        "On: weight the directions of the text embedding by how strongly this model responds to them. This erases more "
        "descriptions and keeps more of the rest. Off: treat all directions alike, as the paper does; then set "
        "'preserve' to 1.",
    ),
]
TUNING_KNOBS = [
    knob(
        io.Int.Input,
        QUICK,
        "steps",
        "Steps of training. More erase harder and take longer; 0 does not tune.",
        min=0,
        max=10000,
    ),
    knob(
        io.Float.Input,
        QUICK,
        "learning_rate",
        "Size of a training step; it falls to 0 towards the last one. Raise it when the report says that the weights "
        "changed by less than 1 %, lower it when kept things change. The paper's 1e-6 is for whole matrices of SD1.4.",
        min=0.0,
        max=1.0,
        step=1e-6,
        round=False,
    ),
    knob(
        io.Combo.Input,
        QUICK,
        "loss",
        "'tau' pushes every noise prediction to 'goal' and stops there. 'hinge' is the paper's loss, with 'beta' and "
        "'margin'; it pushes harder and does not stop by itself.",
        options=list(LOSSES),
    ),
    knob(
        io.Float.Input,
        QUICK,
        "goal",
        "Where loss 'tau' stops: 0 is the concept, 1 is the safe target. More than 1 overshoots: nothing of the "
        "concept is left, but the safe target loses its shape.",
        min=0.0,
        max=5.0,
        step=0.05,
    ),
    knob(
        io.Float.Input,
        QUICK,
        "beta",
        "For loss 'hinge': how far its two goals lie beyond the predictions for the prompts. Raising it acts like "
        "lowering 'preserve'.",
        min=0.0,
        max=100.0,
        step=0.5,
    ),
    knob(
        io.Float.Input,
        QUICK,
        "margin",
        "For loss 'hinge': how much nearer the safe goal has to be before it stops. Raising it pushes for longer.",
        min=0.0,
        max=10.0,
        step=0.01,
        round=0.0001,
    ),
    knob(
        io.Float.Input,
        QUICK,
        "preserve",
        "How strongly the empty prompt and the keep list are preserved. Raise it when kept things change, lower it "
        "when the concept survives. 3 suits loss 'tau', 100 suits 'hinge'.",
        min=0.0,
        max=100000.0,
        step=0.5,
    ),
    knob(
        io.Float.Input,
        QUICK,
        "reach",
        "How far beyond the written prompts to tune. 0 tunes on what the closed form makes of them. 1 also tunes on "
        "what it would leave if it did next to nothing, which is where descriptions that do not name the concept are.",
        min=0.0,
        max=1.0,
        step=0.05,
    ),
    knob(
        io.Float.Input,
        QUICK,
        "unconditional",
        "Share of the loss that is on predictions without a prompt, on trajectories of the concept. The paper uses "
        "0.5; with guidance it works against the rest of the loss.",
        min=0.0,
        max=1.0,
        step=0.05,
    ),
    knob(
        io.Float.Input,
        QUICK,
        "early",
        "Share of the sampling steps to tune on, counted from the noisy end. 1 tunes all of them, which erases harder "
        "and changes details too.",
        min=0.05,
        max=1.0,
        step=0.05,
    ),
    knob(
        io.Combo.Input,
        QUICK,
        "projections",
        "Which weights are trained. 'text': keys and values of cross-attention; erases more and keeps more on the "
        "demo model. 'cross': its queries too. 'paper': self-attention and the queries of cross-attention. 'wide': "
        "all of these.",
        options=list(TRAINED),
    ),
    knob(
        io.Int.Input,
        QUICK,
        "rank",
        "Rank of the change of each weight. Low ranks make small files and keep the rest better; 0 trains whole "
        "matrices, as the paper does.",
        min=0,
        max=256,
    ),
    knob(
        io.Boolean.Input,
        QUICK,
        "metric",
        "On: low-rank changes learn first along the directions of the text embedding that this model responds to. "
        "Off: along all directions alike; then raise 'learning_rate' to 6e-4 and 'goal' to 1.2.",
    ),
    knob(
        io.Int.Input,
        QUICK,
        "trajectories",
        "How many trajectories of the concept to learn from. More cover more prompts and take longer to prepare.",
        min=1,
        max=1000,
    ),
    knob(
        io.Int.Input,
        QUICK,
        "batch",
        "Points of the concept's trajectories in every step. More make steadier and slower steps. Memory does not "
        "grow: the pack splits a step when it does not fit.",
        min=1,
        max=64,
    ),
]
