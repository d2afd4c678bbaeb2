"""Weight changes as a LoRA file: whole matrices, or the best factors of a given rank.

Unlike common LoRA extraction tools it does not clamp the factors. The report gives the error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LoraSettings:
    """energy: share of |dW|^2 of every projection that its factors keep; 1 writes whole matrices, exact in `dtype`.

    max_rank: no factors beyond this rank, however much energy is lost; 0 for no limit.
    """

    energy: float = 1.0
    max_rank: int = 0
    dtype: torch.dtype = torch.float32


def low_rank(dW: Tensor, energy: float, max_rank: int = 0) -> tuple[Tensor, Tensor]:
    """The best factors up (out, r) and down (r, in) of dW (out, in), of the least rank that keeps `energy` of |dW|^2.

    From the eigenvectors of the smaller of dW dW^T and dW^T dW in float64 (Eckart and Young 1936), whose rounding is
    far below what float32 factors hold. Each singular value is split evenly between the two factors.
    """
    W = dW.double()
    wide = W.shape[0] <= W.shape[1]
    values, vectors = torch.linalg.eigh(W @ W.mT if wide else W.mT @ W)  # ascending
    values = values.clamp(min=0)
    lost = values.cumsum(0)
    r = max(1, int((lost > (1 - energy) * lost[-1]).sum()))
    r = min(r, max_rank) if max_rank else r
    V = vectors[:, -r:].flip(1)
    scale = values[-r:].flip(0).sqrt().clamp(min=torch.finfo(torch.float64).tiny).sqrt()  # sqrt of singular values
    if wide:
        return V * scale, V.mT @ W / scale[:, None]
    return W @ V / scale, V.mT * scale[:, None]


@dataclass(frozen=True)
class LoraReport:
    """How a LoRA compares with the changes it was made of."""

    modules: int
    ranks: tuple[int, ...]  # per module; empty when they are whole
    error: float  # |dW' - dW| / |dW| over all modules together
    worst: float  # the same of the worst module
    megabytes: float

    def text(self) -> str:
        """The report as a line for people."""
        form = f"rank {min(self.ranks)} to {max(self.ranks)}" if self.ranks else "whole matrices"
        return (
            f"LoRA of {self.modules} projections, {form}, {self.megabytes:.1f} MB. "
            f"Error {self.error:.2%} of the change (worst projection {self.worst:.2%})."
        )


def make_lora(changes: Iterable[tuple[str, Tensor]], settings: LoraSettings) -> tuple[dict[str, Tensor], LoraReport]:
    """A LoRA state dict of the changes dW (out, in) by module name, on the CPU, and its error.

    Whole matrices are `<module>.diff`, factors `<module>.lora_up.weight`, `.lora_down.weight` and `.alpha` = rank.
    Modules that do not change at all are left out.
    """
    lora: dict[str, Tensor] = {}
    ranks, errors, norms = [], [], []
    for module, dW in changes:
        norm = dW.double().norm().item()
        if norm == 0:
            continue
        if settings.energy >= 1 and not settings.max_rank:
            parts = {f"{module}.diff": dW.to("cpu", settings.dtype).contiguous()}
            made = parts[f"{module}.diff"].double()
        else:
            up, down = (f.to("cpu", settings.dtype) for f in low_rank(dW, settings.energy, settings.max_rank))
            parts = {
                f"{module}.lora_up.weight": up.contiguous(),
                f"{module}.lora_down.weight": down.contiguous(),
                f"{module}.alpha": torch.tensor(float(up.shape[1])),
            }
            made = up.double() @ down.double()
            ranks.append(up.shape[1])
        lora.update(parts)
        errors.append((made - dW.double().cpu()).norm().item())
        norms.append(norm)
    total = sum(norm**2 for norm in norms) ** 0.5
    report = LoraReport(
        modules=len(norms),
        ranks=tuple(ranks),
        error=sum(error**2 for error in errors) ** 0.5 / total if norms else 0.0,
        worst=max((error / norm for error, norm in zip(errors, norms)), default=0.0),
        megabytes=sum(t.numel() * t.element_size() for t in lora.values()) / 1e6,
    )
    return lora, report
