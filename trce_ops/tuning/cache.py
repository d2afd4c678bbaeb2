"""Finished tunings on disk, so that a workflow that is opened again tomorrow does not train again."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from safetensors import SafetensorError

from ..delta.low_rank import WeightChange
from ..files.atomic import load_checked, save_checked
from .train import Tuning

log = logging.getLogger(__name__)

VERSION = 2  # a change in what is computed raises it
FILES = 32  # the least recently used ones beyond these, or beyond MAX_BYTES, are removed
MAX_BYTES = 1 << 30

CURVES = ("losses", "positions", "changes")
PARTS = {1: ("diff",), 2: ("lora_up", "lora_down")}  # names of the tensors by how many there are


def path(folder: str | os.PathLike, key: str) -> Path:
    return Path(folder) / f"tuned_{key[:32]}.safetensors"


def read(path: Path) -> Tuning | None:
    """The tuning in the file, or None when there is none that can be used."""
    try:
        tensors = load_checked(path)
        curves = {name: tuple(tensors.pop(name).tolist()) for name in CURVES}
        data_evaluations, train_evaluations = tensors.pop("evaluations").tolist()
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("it holds NaN or Inf")
        tuned = {}
        for module in dict.fromkeys(name.rpartition(".")[0] for name in tensors):
            names = PARTS[1 if f"{module}.diff" in tensors else 2]
            tuned[module] = WeightChange(tuple(tensors[f"{module}.{name}"] for name in names))
        return Tuning(tuned, **curves, data_evaluations=data_evaluations, train_evaluations=train_evaluations)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        log.warning("The cached tuning %s cannot be used (%s); tuning again.", path.name, error)
        return None


def write(path: Path, tuning: Tuning) -> None:
    """Keep `tuning`; a folder that cannot be written is said in the log and stops nothing."""
    tensors = {name: torch.tensor(getattr(tuning, name), dtype=torch.float64) for name in CURVES}
    tensors["evaluations"] = torch.tensor([tuning.data_evaluations, tuning.train_evaluations])
    for module, change in tuning.tuned.items():
        names = PARTS[len(change.factors)]
        tensors.update((f"{module}.{name}", factor) for name, factor in zip(names, change.factors))
    try:
        save_checked(path, tensors)
        newest_first = sorted(path.parent.glob("tuned_*.safetensors"), key=os.path.getmtime, reverse=True)
        size = 0
        for number, file in enumerate(newest_first):
            size += file.stat().st_size
            if number and (number >= FILES or size > MAX_BYTES):
                file.unlink(missing_ok=True)
    except OSError as error:
        log.warning("The tuning cannot be kept in %s (%s); it will be done again.", path.parent, error)
