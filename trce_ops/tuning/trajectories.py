"""Samples points on early denoising trajectories, with the model's predictions there.

The steps to use are drawn before sampling, so each trajectory ends at its last used step and only those points are
stored. x and sigma belong to the same step. The predictions made while sampling serve as references, so nothing is
predicted twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Generator, Tensor

from ..progress import Progress
from .factors import TuningError
from .text_batch import Texts

log = logging.getLogger(__name__)
Result = TypeVar("Result")

Overrides = Mapping[str, Tensor]  # replacement parameters by name


class OutOfMemory(RuntimeError):
    """The device has no room for even one picture."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory is short: Apple's and some other devices only say so in words."""
    return isinstance(error, torch.OutOfMemoryError | OutOfMemory) or "out of memory" in str(error).lower()


class Denoiser(Protocol):
    """The interface to the host's diffusion model, as a function of its weights.

    e = (x - denoised) / sigma for every parameterisation, so that eps, v and flow models need no separate code.
    """

    shape: tuple[int, ...]  # (c, h, w) of x; with one frame, (c, 1, h, w), of models of videos
    dtype: torch.dtype  # that the network computes in
    at_once: int  # pictures for whose graphs there is memory

    @property
    def weights(self) -> Mapping[str, Tensor]:  # by name, on the device
        ...

    def schedule(self, steps: int) -> Tensor:  # (steps + 1,) sigmas, falling to 0
        ...

    def noise(self, n: int, generator: Generator, sigma: Tensor) -> Tensor:  # (n, c, h, w) CPU, x at the first sigma
        ...

    def __call__(self, x: Tensor, sigma: Tensor, texts: Texts, overrides: Overrides) -> Tensor:
        """e (n, c, h, w) float32 on the device, for x (n, c, h, w), sigma (n,) and n texts."""
        ...


class AttendingDenoiser(Denoiser, Protocol):
    """A denoiser of a model with joint attention, which also tells how much its picture attends to marked tokens."""

    def attending(self, x: Tensor, sigma: Tensor, texts: Texts, overrides: Overrides) -> tuple[Tensor, Tensor]:
        """e as above, and (n, N) float32, with its graph: the share of its attention that each of the N tokens of a
        picture pays to all text tokens in texts.marks together, as a mean over the joint attentions and their heads."""
        ...


class Predictor:
    """Calls a denoiser on `rows` pictures at a time, and counts evaluations.

    On out-of-memory it halves `rows`; raises OutOfMemory at 1. overrides: weights in the place of the model's.
    """

    def __init__(self, denoise: Denoiser, rows: int, overrides: Overrides | None = None):
        self.denoise = denoise
        self.rows = rows
        self.overrides = overrides or {}
        self.evaluations = 0

    def halve(self) -> None:
        if self.rows == 1:
            raise OutOfMemory(
                "The device has too little memory to tune with one picture at a time; lower 'resolution' or 'rank', "
                "close other programs that use the device, or erase without tuning."
            )
        self.rows = (self.rows + 1) // 2
        log.warning("Out of memory; continuing with %d pictures at a time.", self.rows)

    def fitting(self, work: Callable[[], Result]) -> Result:
        """work(), which computes `rows` pictures at a time; again with half as many as long as memory is short."""
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            self.halve()  # outside the handler: the exception keeps the tensors alive

    def __call__(self, x: Tensor, sigma: Tensor, texts: Texts, which: Tensor | None = None) -> Tensor:
        """e (n, c, h, w) on the CPU, without a graph. which (n,): indices of the texts, to copy only those in use."""
        return self._in_parts(self.denoise, x, sigma, texts, which)

    def attention(self, x: Tensor, sigma: Tensor, texts: Texts, which: Tensor | None = None) -> Tensor:
        """Attention (n, N) to the marked tokens, on the CPU, without a graph. Raises TuningError."""
        return self._in_parts(lambda *given: self.attending(*given)[1], x, sigma, texts, which)

    @property
    def attending(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """See AttendingDenoiser. Raises TuningError if the model does not tell."""
        found = getattr(self.denoise, "attending", None)
        if found is None:
            raise TuningError("This model does not tell how much its picture attends to which word.")
        return found

    @torch.no_grad()
    def _in_parts(
        self, predict: Callable[..., Tensor], x: Tensor, sigma: Tensor, texts: Texts, which: Tensor | None
    ) -> Tensor:
        def some(start: int) -> Tensor:
            part = slice(start, start + self.rows)
            text = texts[part if which is None else which[part]]
            return predict(x[part], sigma[part], text, self.overrides).cpu()

        done, start = [], 0
        while start < len(x):
            done.append(self.fitting(partial(some, start)))
            start += len(done[-1])
        self.evaluations += len(x)
        return torch.cat(done)


@dataclass(frozen=True)
class Plan:
    """The prompt of every trajectory, and the steps of it to use."""

    prompts: Tensor  # (n,)
    steps: Tensor  # (n, k), ascending

    @property
    def lengths(self) -> Tensor:  # (n,)
        """Number of steps to predict on each trajectory."""
        return self.steps[:, -1] + 1

    def __len__(self) -> int:
        return len(self.prompts)


def shuffled(n: int, count: int, generator: Generator) -> Tensor:  # (count,)
    """`count` shuffled indices below n; every index occurs before any repeats."""
    return torch.cat([torch.randperm(n, generator=generator) for _ in range(-(-count // n))])[:count]


def draw_plan(prompts: int, trajectories: int, draws: int, first: int, generator: Generator) -> Plan:
    """`draws` different steps among the first `first` for each trajectory; prompts are shuffled and used in turn."""
    steps = [torch.randperm(first, generator=generator)[:draws].sort().values for _ in range(trajectories)]
    return Plan(shuffled(prompts, trajectories, generator), torch.stack(steps))


@dataclass(frozen=True)
class Points:
    """Points (x, sigma) of trajectories, in a fixed order, with the predictions made there. On the CPU."""

    x: Tensor  # (m, c, h, w)
    sigma: Tensor  # (m,)
    prompts: Tensor  # (m,) index of the trajectory's prompt
    e: Tensor  # (m, c, h, w) for that prompt
    e_u: Tensor  # (m, c, h, w) for the empty prompt

    def __len__(self) -> int:
        return len(self.x)


def follow(
    predict: Predictor,
    plan: Plan,
    sigmas: Tensor,  # (steps + 1,)
    x: Tensor,  # (n, c, h, w) at the first sigma
    texts: Texts,  # p of them
    empty: Texts,  # one
    guidance: float,
    progress: Progress = lambda *_: None,
) -> Points:
    """Sample the planned trajectories by Euler steps (DDIM) with guidance, and return the planned points.

    A trajectory of the empty prompt needs one prediction per step; pass `texts=empty` to make only that one. With a
    guidance of 1, as distilled models have, the empty prompt is predicted at the planned points alone.
    Modifies x in place.
    """
    guided = texts is not empty
    lengths = plan.lengths
    total = int(lengths.sum())
    done = 0
    found = []
    for step in range(int(lengths.max())):
        active = (lengths > step).nonzero()[:, 0]
        used = (plan.steps[active] == step).any(1)
        progress(done, total)
        sigma = sigmas[step].expand(len(active))
        e = predict(x[active], sigma, texts, plan.prompts[active])
        e_u = e.clone()
        asked = used | (guidance != 1) if guided else torch.zeros_like(used)
        if asked.any():
            e_u[asked] = predict(x[active[asked]], sigma[asked], empty.repeat(int(asked.sum())))
        kept = active[used]
        found.append((kept, x[kept], sigma[used], e[used], e_u[used]))
        x[active] += (sigmas[step + 1] - sigmas[step]) * (e_u + guidance * (e - e_u))
        done += len(active)
    progress(done, total)
    trajectory, x, sigma, e, e_u = (torch.cat(parts) for parts in zip(*found))
    return Points(x, sigma, plan.prompts[trajectory], e, e_u if guided else e)
