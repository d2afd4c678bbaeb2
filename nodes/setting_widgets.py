"""The widgets of TRCE Settings: one for each setting of the closed form and of tuning."""

from __future__ import annotations

from comfy_api.latest import io

from ..trce_ops.closed_form.erase import EraseSettings
from ..trce_ops.tuning.factors import TRAINED
from ..trce_ops.tuning.settings import LOSSES, TuneSettings
from .inputs import setting_inputs

WEIGHT = (0.0, 10.0, 0.05)


def closed_form_widgets(shown: EraseSettings) -> list[io.Input]:
    """With the values of `shown` as defaults."""
    weights = {f"weight_{role}": weight for role, weight in vars(shown.weights).items()}
    return setting_inputs({**weights, **vars(shown)}, CLOSED_FORM_TOOLTIPS, CLOSED_FORM_LIMITS)


def tuning_widgets(shown: TuneSettings) -> list[io.Input]:
    """With the values of `shown` as defaults."""
    return setting_inputs(vars(shown), TUNING_TOOLTIPS, TUNING_LIMITS)


CLOSED_FORM_TOOLTIPS = {
    "weight_sot": "Weight of the start token. It is the same in every prompt, so raising this only makes it harder "
    "to move.",
    "weight_keyword": "Weight of each of the concept's own tokens. Raising it erases the words themselves harder, "
    "and damages related words sooner.",
    "weight_first_eot": "Weight of the first end-of-text token, which sums up the whole prompt. Raising it also "
    "catches prompts that do not name the concept. The paper moves this token alone.",
    "weight_pads": "Weight of each padding token after the end of the text. Raising it erases harder, because "
    "padding fills most of the 77 tokens, and takes longer, because all of them are encoded.",
    "preserve": "How strongly everyday captions and the keep list are preserved. Raise it when kept things change, "
    "lower it when the concept survives.",
    "ridge": "How strongly every direction of the text embedding resists change. Raise it when the solver reports "
    "that there is no unique solution; too high a value weakens the erasure.",
    "templates": "On: erase the concept, and preserve the keep list, inside everyday sentences ('a photo of "
    "...'). Off: use the lines as they are written; choose this for lines that are whole prompts.",
    "metric": "On: weight the directions of the text embedding by how strongly this model responds to them. This "
    "erases more descriptions and keeps more of the rest. Off: treat all directions alike, as the paper does; then "
    "divide 'preserve' by 5.",
}
CLOSED_FORM_LIMITS = {
    "weight_sot": WEIGHT,
    "weight_keyword": WEIGHT,
    "weight_first_eot": WEIGHT,
    "weight_pads": WEIGHT,
    "preserve": (0.0, 100.0, 0.001, 0.0001),
    "ridge": (0.0, 100.0, 0.001, 0.000001),
}

TUNING_TOOLTIPS = {
    "steps": "Steps of training. More steps erase harder and take longer; 0 does not tune.",
    "learning_rate": "Size of a training step; it falls to 0 towards the last one. Raise it when the report says "
    "that the weights changed by less than 1 %, lower it when kept things change. The paper's 1e-6 is for whole "
    "matrices of SD1.4.",
    "loss": "'tau' pushes every noise prediction to 'goal' and stops there. 'hinge' is the paper's loss, with "
    "'beta' and 'margin'; it pushes harder and does not stop by itself.",
    "goal": "Where loss 'tau' stops: 0 is the concept, 1 is the safe target. More than 1 overshoots: nothing of "
    "the concept is left, but the safe target loses its shape.",
    "beta": "For loss 'hinge': how far its two goals lie beyond the predictions for the prompts. Raising it acts "
    "like lowering 'preserve'.",
    "margin": "For loss 'hinge': how much nearer the safe goal has to be before it stops. Raising it pushes for "
    "longer.",
    "preserve": "How strongly the empty prompt and the keep list are preserved. Raise it when kept things change, "
    "lower it when the concept survives. 3 to 10 suit loss 'tau', 100 suits 'hinge'.",
    "unconditional": "Share of the loss on the prediction for the empty prompt, in noisy pictures of the concept. "
    "The paper uses 0.5; with guidance it works against the rest of the loss.",
    "early": "Share of the sampling steps to tune on, counted from the noisy end. 1 tunes all of them, which "
    "erases harder and changes details too.",
    "projections": "Which weights are trained. 'text': keys and values of cross-attention; erases more and keeps "
    "more on the demo model. 'cross': its queries too. 'paper': self-attention and the queries of "
    "cross-attention. 'wide': all of these. 'blocks': all matrices of the transformer blocks, as in mode 'robust'. "
    "'cross' and 'paper' are for UNets.",
    "rank": "Rank of the change of each weight. Low ranks make small files and keep the rest better; 0 trains "
    "whole matrices, as the paper does.",
    "metric": "On: low-rank changes learn first along the directions of the text embedding that this model "
    "responds to. Off: along all directions alike; then raise 'learning_rate' to 6e-4 and 'goal' to 1.2.",
    "trajectories": "How many prompts of the concept are drawn, to learn from the noisy pictures on the way. More "
    "prompts cover more wordings and take longer to prepare. Every concept has one at least.",
    "batch": "How many noisy pictures of the concept each step learns from. A larger batch makes steadier and "
    "slower steps. Memory does not grow: the pack splits a step when it does not fit.",
    "words": "How many adversarial words are learned in turn while tuning: prompts in which the model would still "
    "draw the concept. They remove descriptions that nobody listed, and take about as long as the rest of the "
    "training. For models that read T5 or a language model, embeddings are learned instead. 0 for none, as in the "
    "paper.",
    "word_updates": "How often a word or embedding is improved in a step. More makes them stronger, and takes longer.",
}
TUNING_LIMITS = {
    "steps": (0, 10000),
    "learning_rate": (0.0, 1.0, 1e-6, False),
    "loss": LOSSES,
    "goal": (0.0, 5.0, 0.05),
    "beta": (0.0, 100.0, 0.5),
    "margin": (0.0, 10.0, 0.01, 0.0001),
    "preserve": (0.0, 100000.0, 0.5),
    "unconditional": (0.0, 1.0, 0.05),
    "early": (0.05, 1.0, 0.05),
    "projections": TRAINED,
    "rank": (0, 256),
    "trajectories": (1, 1000),
    "batch": (1, 64),
    "words": (0, 32),
    "word_updates": (1, 10),
}
