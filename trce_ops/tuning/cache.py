"""Finished tunings as tensors for the disk cache, so that reopening a workflow does not train again."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..delta.low_rank import PARTS, WeightChange
from .train import Tuning

VERSION = 6  # part of the key; raise it when a tuning computes something else

CURVES = ("losses", "positions", "changes")


def to_tensors(tuning: Tuning) -> dict[str, Tensor]:
    """All of a tuning but its seconds."""
    tensors = {name: torch.tensor(getattr(tuning, name), dtype=torch.float64) for name in CURVES}
    tensors["evaluations"] = torch.tensor([tuning.data_evaluations, tuning.train_evaluations, tuning.word_evaluations])
    for module, change in tuning.tuned.items():
        tensors.update(change.named(module))
    return tensors


def from_tensors(tensors: Mapping[str, Tensor]) -> Tuning:
    """The tuning that `to_tensors` wrote. Raises KeyError and ValueError for other tensors."""
    rest = dict(tensors)
    losses, positions, changes = (tuple(rest.pop(name).tolist()) for name in CURVES)
    evaluations = rest.pop("evaluations").tolist()
    tuned = {}
    for module in dict.fromkeys(name.rpartition(".")[0] for name in rest):
        names = PARTS[1 if f"{module}.diff" in rest else 2]
        tuned[module] = WeightChange(tuple(rest[f"{module}.{name}"] for name in names))
    return Tuning(tuned, losses, positions, changes, *evaluations)
