"""SPEED: Scalable, Precise and Efficient Concept Erasure (ICLR 2026, arXiv 2503.07392).

The change of a projection is confined to the null space of what is kept, so that W' k = W k for it. One vector stands
for a concept, c_1, and one for its anchor, c_*. With C_1 = mean c_1 c_1^T, C_* = mean c_* c_1^T, P the projector onto
the null space of the kept embeddings, and K_2 those of the empty prompt, which must not move at all,

    minimise mean |(W + X) c_1 - W c_*|^2 + rho |X|^2  over X = X P with X K_2 = 0
    X = W (C_* - C_1) R,   R = Q - Q K_2 (K_2^T Q K_2 + mu I)^+ K_2^T Q,   Q = P (P C_1 P + rho I)^-1 P

P depends on the projection, because what is kept is first filtered by how much the projection's unconstrained change
would move it, and then augmented along the right singular vector of the projection's smallest singular value. So there
is a separate change for each projection, with a rank of at most the number of concepts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from ..delta.low_rank import WeightChange
from ..text.embeddings import TextEncoder, embed_positions
from ..text.prompts import PLAIN, PromptPair, expand
from ..text.tokens import Roles
from .job import Edit, Job, MethodError, embed_kept, no_map, subjects
from .rece import every_token

PARAMS = {"V": ("to_v",), "K": ("to_k",), "KV": ("to_k", "to_v")}
TOKENS = ("subject", "all")
CENTRES = 3  # of the empty prompt's padding


@dataclass(frozen=True)
class SpeedSettings:
    """params: which projections. tokens: "subject" for the last one of each concept, or "all". preserve (rho): of
    |X|^2. ridge (mu): slack for the empty prompt. threshold: singular values of the kept embeddings' moment below it
    are its null space. filtered: keep only what would move more than the average. augment: points drawn around each
    kept embedding."""

    params: str = "V"
    tokens: str = "subject"
    preserve: float = 1.0
    ridge: float = 0.0
    threshold: float = 0.1
    filtered: bool = True
    augment: int = 10
    seed: int = 0


def influential(rows: Tensor, E: Tensor, settings: SpeedSettings) -> Tensor:  # (m, d), (out, d) -> (m', d)
    """Prior filtering: the rows that the unconstrained change E moves more than the average."""
    if not settings.filtered or len(rows) < 2:
        return rows
    moves = (rows @ E.mT).norm(dim=1)
    return rows[moves >= moves.mean()]


def augmented(rows: Tensor, W: Tensor, settings: SpeedSettings, generator: Generator) -> Tensor:  # (m, d) -> (m k, d)
    """Directed augmentation: noise along the right singular vector of W's smallest singular value."""
    v = torch.linalg.svd(W, full_matrices=False)[2][-1]
    noise = torch.randn(settings.augment * len(rows), W.shape[1], generator=generator, dtype=W.dtype)
    return rows.repeat(settings.augment, 1) + torch.outer(noise @ v, v)


def null_space(rows: Tensor, threshold: float) -> Tensor:  # (m, d) -> (d, d)
    """P, the projector onto the directions in which the mean of c c^T over the rows is below the threshold."""
    eye = torch.eye(rows.shape[1], dtype=rows.dtype)
    if not len(rows):
        return eye
    _, sizes, directions = torch.linalg.svd(rows / len(rows) ** 0.5, full_matrices=False)
    spanned = directions[sizes**2 >= threshold]
    return eye - spanned.mT @ spanned


def unconstrained(sources: Tensor) -> Tensor:  # (n, d) -> (n, d)
    """Z: the change of any W that keeps nothing is W (targets - sources)^T Z / n, with rho at 1."""
    n, d = sources.shape
    eye = torch.eye(d, dtype=sources.dtype)
    return torch.linalg.solve(eye + sources.mT @ sources / n, sources.mT).mT


def solve(
    W: Tensor,  # (out, d) float64
    sources: Tensor,  # (n, d) c_1
    targets: Tensor,  # (n, d) c_*
    Z: Tensor,  # (n, d) unconstrained(sources), the same for every W
    kept: Tensor,  # (m, d) c_0
    empty: Tensor,  # (e, d) the columns of K_2
    settings: SpeedSettings,
    generator: Generator,
) -> tuple[Tensor, Tensor]:  # (out, n), (n, d)
    """Factors of X = up @ down."""
    n = len(sources)
    up = W @ (targets - sources).mT / n
    E = up @ Z
    kept = influential(kept, E, settings)
    if settings.augment and len(kept):
        more = influential(augmented(kept, W, settings, generator), E, settings)
        kept = torch.cat([kept, more])
    P = null_space(kept, settings.threshold)
    B = sources @ P / n**0.5
    # Q by Woodbury's identity, over the n concepts: B P = B.
    small = B @ B.mT + settings.preserve * torch.eye(n, dtype=W.dtype)
    Q = (P - B.mT @ torch.linalg.solve(small, B)) / settings.preserve
    QK = Q @ empty.mT
    held = empty @ QK + settings.ridge * torch.eye(len(empty), dtype=W.dtype)
    R = Q - QK @ torch.linalg.pinv(held, hermitian=True) @ QK.mT
    return up, sources @ R


def centres(tokens: Tensor, count: int, generator: Generator, rounds: int = 50) -> Tensor:  # (m, d) -> (count, d)
    """k-means."""
    count = min(count, len(tokens))
    found = tokens[torch.randperm(len(tokens), generator=generator)[:count]]
    for _ in range(rounds):
        nearest = torch.cdist(tokens, found).argmin(1)
        found = torch.stack([tokens[nearest == i].mean(0) if (nearest == i).any() else c for i, c in enumerate(found)])
    return found


def erase(job: Job, settings: SpeedSettings) -> Edit:
    """Raises MethodError for settings that do not exist or leave no one solution."""
    for name, accepted in (("params", PARAMS), ("tokens", TOKENS)):
        if (given := getattr(settings, name)) not in accepted:
            raise MethodError(f"'{name}' is '{given}'; choose one of {', '.join(accepted)}.")
    if settings.preserve <= 0:
        raise MethodError(f"'preserve' is {settings.preserve:g}; SPEED needs more than 0.")
    generator = Generator().manual_seed(settings.seed)
    tuned, maps, left = {}, {}, []
    for kind, encoder in job.encoders.items():
        sources, targets, kept, empty = embed(encoder, job, settings, generator)
        found = chosen(job.projections(kind), settings.params)
        Z = unconstrained(sources)
        for number, (module, whole) in enumerate(found.items()):
            job.progress("Projections", number, len(found))
            W = whole[:, : encoder.width].double()
            up, down = solve(W, sources, targets, Z, kept, empty, settings, generator)
            tuned[module] = change(up, down, whole.shape)
            goal = (targets - sources) @ W.mT
            left.append((sources @ down.mT @ up.mT - goal).norm() / goal.norm())
        job.progress("Projections", len(found), len(found))
        maps[kind] = no_map(encoder.width)
    return Edit(maps, tuned, {"moved": torch.stack(left).mean().item()})


def chosen(weights: Mapping[str, Tensor], params: str) -> Mapping[str, Tensor]:
    """The projections of PARAMS; all of them where a model has no keys and values of its own for the text."""
    found = {module: W for module, W in weights.items() if module.endswith(PARAMS[params])}
    return found or weights


def change(up: Tensor, down: Tensor, shape: Sequence[int]) -> WeightChange:
    """X with zeros for the columns that read no text, as factors or whole, whichever is smaller."""
    n_out, n_in = shape
    down = torch.nn.functional.pad(down, (0, n_in - down.shape[1]))
    if len(down) * (n_out + n_in) >= n_out * n_in:
        return WeightChange(((up @ down).float().contiguous(),))
    return WeightChange((up.float().contiguous(), down.float().contiguous()))


def all_but_start(source: Roles, target: Roles) -> Iterator[tuple[str, int, int, float]]:
    """Every token but the start token, if the encoder has one."""
    return (pair for pair in every_token(source, target) if pair[1] not in source.sot)


def embed(
    encoder: TextEncoder, job: Job, settings: SpeedSettings, generator: Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_1, c_*, c_0 and K_2^T: the concepts, their anchors, what is kept with the empty prompt, and its centres."""
    positions = subjects if settings.tokens == "subject" else all_but_start
    pairs = embed_positions(expand(job.pairs, PLAIN), encoder, positions, partial(job.progress, "Concepts"))
    null = embed_positions([PromptPair("", "", "", "", "")], encoder, every_token).sources.double()
    kept = torch.cat([embed_kept(job, encoder, subjects).sources.double(), null])
    empty = torch.cat([null[:1], centres(null[1:], CENTRES, generator)]) if len(null) > 1 else null
    return pairs.sources.double(), pairs.targets.double(), kept, empty
