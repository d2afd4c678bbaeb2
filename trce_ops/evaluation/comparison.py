"""Figures of what an erasure changed, without a picture classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .erase_eval import without_a_judge

CONCEPT, KEPT = "concept", "kept"


@dataclass(frozen=True)
class Change:
    """One prompt with one seed. change: how far its predictions moved; pull: how far the prompt itself moves them."""

    kind: str  # CONCEPT or KEPT
    prompt: str
    seed: int
    change: float  # mean |after - before|^2, along the trajectory before
    pull: float  # mean |with the prompt - with the negative one|^2 there, before
    picture: float  # mean absolute difference of the pictures, 0 to 1


def squared_distances(
    before: Sequence[Tensor], after: Sequence[Tensor], negative: Sequence[Tensor], sigmas: Sequence[float]
) -> tuple[float, float]:
    """(change, pull) over the points of a trajectory, of noise predictions: (x - denoised) / sigma, so x cancels.

    All three are denoised predictions (1, c, h, w) at the same points.
    """

    def mean(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
        parts = [((a - b).double() / sigma).square().mean().item() for a, b, sigma in zip(one, other, sigmas)]
        return sum(parts) / len(parts)

    return mean(after, before), mean(before, negative)


def share(changes: Sequence[Change]) -> float:
    """Root of the mean change over that of the mean pull: 1 = moved as far as the prompts themselves move it."""
    pull = sum(change.pull for change in changes)
    return (sum(change.change for change in changes) / pull) ** 0.5 if pull else float("nan")


def report_text(changes: Sequence[Change]) -> str:
    """The figures as lines for people: by kind, then by prompt."""
    lines = []
    for kind in (CONCEPT, KEPT):
        if of_kind := [change for change in changes if change.kind == kind]:
            lines.append(f"{kind} prompts: {_figures(of_kind)}")
            for prompt in dict.fromkeys(change.prompt for change in of_kind):
                lines.append(f"  {prompt}: {_figures([change for change in of_kind if change.prompt == prompt])}")
    concept, kept = (share([change for change in changes if change.kind == kind]) for kind in (CONCEPT, KEPT))
    if concept == concept and kept == kept:
        ratio = f"Concept prompts moved {concept / kept:.1f} times as far as kept ones." if kept else ""
        lines.append(ratio or "Kept prompts did not move at all.")
        erased, stayed, both = without_a_judge(concept, kept)
        lines.append(
            f"Both in one figure: {both:.0%}. Concept prompts moved by {erased:.0%}, and {stayed:.0%} of kept prompts "
            "stayed; this is their harmonic mean, in which the lower one counts most (as in EraseEval). Use it to "
            "compare erasures on the same prompts."
        )
    lines.append(
        "Prediction: how far the erasure moves what the model predicts, as a share of how far the prompt moves it (0% "
        "= not at all). Picture: mean difference of the pictures' colours. Neither says what a picture shows: look at "
        "them."
    )
    return "\n".join(lines)


def _figures(changes: Sequence[Change]) -> str:
    picture = sum(change.picture for change in changes) / len(changes)
    count = f"{len(changes)} picture{'s' if len(changes) > 1 else ''}"
    return f"prediction {share(changes):.0%}, picture {picture:.1%} ({count})"
