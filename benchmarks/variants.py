"""Sets of settings that are compared with one another: `python dev.py bench erasure --variants SET`.

Each is written as --method takes it: NAME:knob=value,part.knob=value; see demo_world.method_settings.
"""

from __future__ import annotations

CLOSED_FORM = "trce-closed-form"


def tokens(**weights: int) -> str:
    """The closed form with only these token roles moved."""
    others = [role for role in ("sot", "keyword", "first_eot", "pads") if role not in weights]
    given = weights | dict.fromkeys(others, 0)
    return f"{CLOSED_FORM}:" + ",".join(f"closed_form.weights.{role}={weight}" for role, weight in given.items())


KNOBS = {  # method -> what weighs keeping against erasing in it
    CLOSED_FORM: "closed_form.preserve",
    "trce-closed-form-paper": "closed_form.preserve",
    "uce": "preserve",
    "rece": "preserve",
    "mace": "preserve",
    "realera": "preserve",
    "speed": "preserve",
    "leace": "shrinkage",
    "esd": "learning_rate",
}
FACTORS = ("1/3", "1", "3")


VARIANTS = {  # set -> title -> method
    "tokens": {
        "SoT": tokens(sot=1),
        "keyword": tokens(keyword=1),
        "first EoT": tokens(first_eot=1),
        "pads": tokens(pads=1),
        "keyword and first EoT": tokens(keyword=1, first_eot=1),
        "all EoTs": tokens(first_eot=1, pads=1),
        "all": tokens(sot=1, keyword=1, first_eot=1, pads=1),
    },
    "tuning": {
        "closed form": CLOSED_FORM,
        "tuned": "trce",
        "nothing preserved": "trce:tuning.preserve=0",
        "empty prompt preserved only": "trce:tuning.keep=false",
        "full rank": "trce:tuning.rank=0,tuning.learning_rate=6e-4",
        "all directions alike": "trce:tuning=WITHOUT_METRIC",
        "no adversarial words": "trce:tuning.words=0",
        "after the closed form as it is alone": "trce:closed_form.preserve=15",
        "with self-attention": "trce:tuning.projections=wide",
        "paper's projections": "trce:tuning.projections=paper",
        "paper's loss": "trce:tuning.loss=hinge,tuning.preserve=100",
        "paper's settings, learning rate for this model": "trce:tuning=PAPER,tuning.learning_rate=1e-3",
    },
    "grid": {f"{name}, {knob} x {f}": f"{name}:{knob}=x{f}" for name, knob in KNOBS.items() for f in FACTORS},
}
TITLES = {method: title for variants in VARIANTS.values() for title, method in variants.items()}
