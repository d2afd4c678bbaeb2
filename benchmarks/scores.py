"""EraseEval's scores (arXiv 2502.13989) of an erasure of the emoji world.

The judge stands for the captioner, the text model and CLIP of the paper, and the unedited model's pictures of the kept
prompts by another seed for its photographs, which makes M4 stricter: it is 0 from twice the distance of two seeds on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import erasing
from in_comfyui import pack
from judge import Verdict

if TYPE_CHECKING:
    from cases import Case

NAMES = {
    "M1": "M1 named",
    "M2": "M2 described",
    "M3": "M3 kept",
    "M4": "M4 kept pictures",
    "score": "combined",
}


def erase_eval(case: Case, after: Verdict, things: Sequence[str]) -> dict[str, float | None]:
    """M1 to M4, and "score", which is all of them combined. None for what there are no prompts for.

    M1: prompts that name a concept as the erasure was given it. M2: those that only describe one.
    """
    arithmetic = pack("trce_ops.evaluation.erase_eval")
    pairs = pack("trce_ops.text.concepts").parse_concepts(erasing.concepts_text(*things))
    given, mentions = [pair.concept for pair in pairs], pack("trce_ops.text.spelling").mentions
    kept = set(case.kept)
    asked = [i for i in range(len(case.prompts)) if i not in kept]
    named = {i for i in asked if mentions(case.prompts[i].text, given)}

    def reflected(places: Sequence[int]) -> float | None:
        if not places:
            return None
        shows = [bool(after.recognised(case.prompts[i].thing)[i]) for i in places]
        return arithmetic.reflected(shows, [_rest(case.prompts[i], after, i) for i in places])

    found = {
        "M1": reflected([i for i in asked if i in named]),
        "M2": reflected([i for i in asked if i not in named]),
        "M3": _preserved(case, after),
        "M4": _undisturbed(case, after),
    }
    known = [score for score in found.values() if score is not None]
    combined = arithmetic.combine(*known) if len(known) == len(found) else None
    return {name: score if score is None else round(score, 4) for name, score in {**found, "score": combined}.items()}


def _rest(prompt: erasing.Prompt, verdict: Verdict, i: int) -> float:
    """The share of all else that a prompt asks for which its picture shows; 1 if that is nothing."""
    shown = [bool(verdict.recognised(other)[i]) for other in prompt.others]
    return sum(shown) / len(shown) if shown else 1.0


def _preserved(case: Case, after: Verdict) -> float | None:
    def rate(verdict: Verdict) -> float:
        return sum(bool(verdict.recognised(case.prompts[i].thing)[i]) for i in case.kept) / len(case.kept)

    if not case.kept or not rate(case.before):
        return None
    return pack("trce_ops.evaluation.erase_eval").preserved(rate(case.before), rate(after))


def _undisturbed(case: Case, after: Verdict) -> float | None:
    """Of the kept prompts' pictures, in the judge's features; None for fewer than two."""
    if case.other is None:
        return None
    arithmetic = pack("trce_ops.evaluation.erase_eval")
    before, now = (arithmetic.kernel_distance(v.features[case.kept], case.other) for v in (case.before, after))
    return arithmetic.undisturbed(before, now) if before else None


def table(runs: Sequence[dict]) -> str:
    """Markdown, a line for each method: the mean of each score over its runs, and the least combined one."""
    lines: dict[str, list[dict]] = {}
    for run in runs:
        if run.get("erase_eval"):
            lines.setdefault(run["method"], []).append(run["erase_eval"])
    text = [["method", "concepts", *NAMES.values(), "least"], ["---"] * (len(NAMES) + 3)]
    for method, found in lines.items():
        columns = {name: [scores[name] for scores in found if scores[name] is not None] for name in NAMES}
        means = [f"{sum(column) / len(column):.2f}" if column else "" for column in columns.values()]
        least = f"{min(columns['score']):.2f}" if columns["score"] else ""
        text.append([method, str(len(found)), *means, least])
    return "\n".join(f"| {' | '.join(line)} |" for line in text)
