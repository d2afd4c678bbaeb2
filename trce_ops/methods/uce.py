"""UCE: Unified Concept Editing in Diffusion Models (WACV 2024), equation 7 with v* = W s.

UCE maps one vector per concept, the last token of its name, to the last token of the safe target, and keeps one vector
per keep line. With an empty safe target the goal is the start token, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..text.embeddings import EmbeddingPairs, TextEncoder, embed_positions
from ..text.prompts import PLAIN, expand
from .job import Edit, Job, changed, edit_maps, embed_kept, moved, solve_sums, subjects

PHRASES = (*PLAIN, "image of {}", "photo of {}", "portrait of {}", "picture of {}", "painting of {}")


@dataclass(frozen=True)
class UceSettings:
    """erase: weight of each concept. preserve (lambda_1): of each thing to keep. ridge (lambda_2): of W' = W.
    expand: erase each concept in five phrases too."""

    erase: float = 1.0
    preserve: float = 1.0
    ridge: float = 0.5
    expand: bool = False


def embed(encoder: TextEncoder, job: Job, settings: UceSettings) -> tuple[EmbeddingPairs, Tensor]:
    """The concepts, and what is kept (m, d)."""
    prompts = expand(job.pairs, PHRASES if settings.expand else PLAIN)
    pairs = embed_positions(prompts, encoder, subjects, partial(job.progress, "Concepts"))
    return pairs, embed_kept(job, encoder, subjects).sources


def solve(encoder: TextEncoder, job: Job, settings: UceSettings) -> tuple[Tensor, Mapping[str, float]]:
    pairs, kept = embed(encoder, job, settings)
    T = solve_sums(
        pairs.sources, pairs.targets, kept, erase=settings.erase, preserve=settings.preserve, ridge=settings.ridge
    )
    return T, {"moved": moved(T, pairs), "kept": changed(T, kept)}


def erase(job: Job, settings: UceSettings) -> Edit:
    return edit_maps(job, lambda _, encoder: solve(encoder, job, settings))
