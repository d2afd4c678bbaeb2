"""The report of the closed form: figures, and text for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..delta.low_rank import ContextMap
from ..text.embeddings import EmbeddingPairs


@dataclass(frozen=True)
class Report:
    """Figures of one erasure. Distances are ratios: 0 is on the target for `moved`, and unchanged for `kept`."""

    prompts: int
    pairs: int
    width: int
    rank: int
    moved: Mapping[str, float]  # per role
    moved_concepts: Mapping[str, float]  # by line of the concepts widget, so that a misread target is seen
    kept: Mapping[str, float]  # by list of captions
    seconds: Mapping[str, float]  # per step
    keep: Sequence[str]  # lines of the keep list
    notes: Sequence[str] = ()  # sentences: what could not be had or done

    def text(self) -> str:
        """The report as lines for people."""
        lines = [
            f"Erased {_count(len(self.moved_concepts), 'concept')} with {_count(self.prompts, 'prompt')}, "
            f"{_count(self.pairs, 'embedding pair')}; map of width {self.width}, rank {self.rank}.",
            "Distance from the safe target (0 = there, 1 = not moved): "
            + (", ".join(f"{role} {value:.3f}" for role, value in self.moved.items()) or "no pair to move"),
        ]
        lines += [f"  {concept}: {value:.3f}" for concept, value in self.moved_concepts.items()]
        lines.append(
            "Change of kept text (0 = none): " + ", ".join(f"{name} {value:.3f}" for name, value in self.kept.items())
        )
        if self.keep:
            lines.append(f"Keep list: {' | '.join(self.keep)}")
        lines += self.notes
        lines.append("Seconds: " + ", ".join(f"{step} {value:.2f}" for step, value in self.seconds.items()))
        return "\n".join(lines)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def moved_ratios(context_map: ContextMap, pairs: EmbeddingPairs) -> Tensor:  # (n,)
    """|T c - s| / |c - s| per pair; NaN where source and target are equal, as for SoT."""
    distance = (pairs.sources - pairs.targets).norm(dim=1)
    left = (context_map.apply(pairs.sources) - pairs.targets).norm(dim=1)
    moves = distance > 1e-5 * pairs.sources.norm(dim=1)  # beyond the rounding of the encoder
    return torch.where(moves, left / distance, torch.nan)


def mean_by(ratios: Tensor, labels: Sequence[str], order: Iterable[str]) -> dict[str, float]:
    """Mean of the ratios per label, in the given order. Labels without a ratio are left out."""
    groups = {label: [] for label in order}
    for ratio, label in zip(ratios.tolist(), labels):
        if ratio == ratio:
            groups[label].append(ratio)
    return {label: sum(group) / len(group) for label, group in groups.items() if group}


def kept_ratio(context_map: ContextMap, samples: Tensor) -> float:  # samples (m, d)
    """Mean |T k - k| / |k| over kept embeddings; where k is zero it stays so."""
    sizes = samples.norm(dim=1)
    return (context_map.shift(samples).norm(dim=1) / torch.where(sizes > 0, sizes, 1.0)).mean().item()
