"""EraseEval: four scores of an erasure, and one score that is low as soon as any of them is.

Source: Fuchi and Takagi, "Erasing with Precision", arXiv 2502.13989, and the code published with it. There a captioner,
a text model and CLIP look at the pictures. Here the caller brings a judge of its own, and these functions only count.
Every score is from 0 (bad) to 1 (good). The published code prints M1 to M4 and does not combine them; `combine` is our
choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def reflected(shows_concept: Sequence[bool], shows_rest: Sequence[float]) -> float:
    """M1 (prompts that name the concept) and M2 (prompts that only describe it), over n pictures of the erased model.

    The mean over pictures of shows_rest, the share (0 to 1) of all else that the prompt asks for which the picture
    shows; a picture that still shows the concept counts as 0. In the paper the place of shows_rest is taken by a cosine
    with what the unedited model draws: of captions for M1, of pictures for M2. Raises ValueError for no picture.
    """
    scores = [0.0 if shows else float(rest) for shows, rest in zip(shows_concept, shows_rest, strict=True)]
    if not scores:
        raise ValueError("no pictures: give at least one prompt of the concept")
    return sum(scores) / len(scores)


def preserved(before: float, after: float) -> float:
    """M3: 1 - (before - after) / before, from 0 to 1, of how well pictures of kept prompts show what they ask for.

    before, after: any score that is higher when a picture fits its prompt better (CLIP score in the paper), of the
    unedited and of the erased model. Raises ValueError when before is not positive: then there is nothing to preserve.
    """
    if not before > 0:
        raise ValueError(f"the unedited model has the score {before} on kept prompts: there is nothing to preserve")
    return min(1.0, max(0.0, 1 - (before - after) / before))


def undisturbed(before: float, after: float) -> float:
    """M4: 1 - (after - before) / before, from 0 to 1, of the distances of kept pictures from reference pictures.

    before, after: the distance of the unedited and of the erased model's pictures (CMMD to photographs in the paper).
    Raises ValueError when before is not positive.
    """
    if not before > 0:
        raise ValueError(f"the unedited model is at the distance {before} from the reference: nothing to compare with")
    return min(1.0, max(0.0, 1 - (after - before) / before))


def kernel_distance(features: Tensor, reference: Tensor) -> float:  # (n, d), (m, d)
    """Squared maximum mean discrepancy under a Gaussian kernel: CMMD's distance (arXiv 2401.09603) on any features.

    mean k(x, x') + mean k(r, r') - 2 mean k(x, r), with k(a, b) = exp(-|a - b|^2 / (2 s^2)) over all pairs, a picture
    with itself included, so that it is never negative. s is the median distance within `reference`: two sets held
    against one reference are measured alike. (CMMD has s = 10 for CLIP's features.)
    """
    x, r = features.double(), reference.double()
    apart = torch.pdist(r)
    s = apart.median().clamp(min=1e-12) if len(apart) else x.new_ones(())

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(a, b).square() / (2 * s.square())).mean()

    return (mean(x, x) + mean(r, r) - 2 * mean(x, r)).clamp(min=0).item()


def combine(*scores: float) -> float:
    """The harmonic mean of scores from 0 to 1, so that the lowest counts most; 0 as soon as one of them is 0.

    Raises ValueError for scores out of 0 to 1, and for none.
    """
    if not scores or not all(0 <= score <= 1 for score in scores):
        raise ValueError(f"the scores are {scores}; give one or more from 0 to 1")
    return len(scores) / sum(1 / score for score in scores) if all(scores) else 0.0


def without_a_judge(concept: float, kept: float) -> tuple[float, float, float]:
    """(erased, stayed, both): how far concept prompts moved, how far kept prompts did not, and both combined.

    concept, kept: how far the erasure moves the predictions of each, as shares of how far the prompts themselves do
    (`comparison.share`). Says what the model predicts and not what a picture shows.
    """
    erased, stayed = min(1.0, concept), max(0.0, 1 - kept)
    return erased, stayed, combine(erased, stayed)
