"""EraseAnything: Enabling Concept Erasure in Rectified Flow Transformers (ICML 2025, arXiv 2412.20413).

It trains the queries and keys of the text stream, in models that have one of its own, by two losses in turn:

    erasing:     |v(x, c) - (v0(x, "") - eta (v0(x, c) - v0(x, "")))|^2  +  lambda_attn |a(c)|
    preserving:  lambda_fm |v(x, k) - v0(x, k)|^2  +  lambda_rsc L_rsc
    L_rsc = -log (sum_i p_i / (q + sum_i p_i)),  p_i = exp(cos(a(c), a0(w_i)) / 0.07),  q = exp(cos(a(c), a0(s)) / 0.07)

a is the attention that picture tokens pay to the tokens of a word, a mean over joint attentions and heads: of the
concept c, of irrelevant words w_i in its place, and of its synonym s in its place. So c comes to be attended to like
something irrelevant (the reverse self-contrastive loss, here with the concept as the anchor).

In flow models e is the velocity v. Different from the paper:
- v0 and a0 are the unedited model's, as the paper has v0; the published code keeps what it trains on in its targets.
- What is kept is v0 at points of kept prompts' trajectories, at all noise levels. The paper's noise - x0 has that mean.
- |a(c)| is the norm of the sum over the concept's tokens, not a sum of norms.
- The irrelevant words are short lines of the keep list and everyday things, not a language model's. The synonym is
  another concept with the same safe target, or else the concept without its article.
- The words of a prompt keep their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Generator, Tensor, cosine_similarity

from ..delta.low_rank import ContextMap
from ..text.concepts import ConceptPair
from ..text.spelling import bare, mentions
from ..tuning.data import Contexts, Data
from ..tuning.factors import ADDED
from ..tuning.losses import drift
from ..tuning.objective import Objective, Term
from ..tuning.prompts import draw_in_turn
from ..tuning.settings import TuneSettings
from ..tuning.trajectories import shuffled
from .esd import negative_guidance
from .job import Edit, Job, MethodError, edit_trained

TEMPERATURE = 0.07
IRRELEVANT = 3  # words (K)
LONGEST = 4  # words in a line of the keep list that can take a concept's place
EVERYDAY = ("a table", "a tree", "a cup", "a house", "a bicycle", "a cloud", "a book", "a fence", "a river", "a spoon")


@dataclass(frozen=True)
class EraseAnythingSettings:
    """negative_guidance (eta). attention (lambda_attn), preserve (lambda_fm), contrast (lambda_rsc): weights beside
    erasing, which has 1. steps: of both kinds together. others: see TuneSettings."""

    negative_guidance: float = 1.0
    attention: float = 1e-3
    preserve: float = 0.1
    contrast: float = 0.1
    steps: int = 200
    learning_rate: float = 1e-3
    rank: int = 8
    trajectories: int = 24
    resolution: int = 512
    batch: int = 1
    draws: int = 4
    sampling_steps: int = 28
    guidance: float = 3.5
    seed: int = 0

    def tuning(self) -> TuneSettings:
        """The settings for tuning.tune: all noise levels, and as many kept trajectories as unwanted ones."""
        same = ("steps", "learning_rate", "rank", "resolution", "batch", "draws", "sampling_steps", "guidance", "seed")
        return TuneSettings(
            **{name: getattr(self, name) for name in same},
            trajectories=self.trajectories,
            keep_trajectories=self.trajectories,
            keep_draws=self.draws,
            keep_batch=self.batch,
            empty_trajectories=1,
            empty_draws=1,
            projections=ADDED,
            decay=False,
            metric=False,
            words=0,
            early=1.0,
        )


def erasing(
    e: Tensor, attention: Tensor, e_c: Tensor, e_safe: Tensor, e_u: Tensor, eta: float, weight: float
) -> Tensor:  # (n, ...), (n, N), (n, ...) three times -> (n,)
    """Negative guidance away from the unedited model's prediction, and the concept is attended to less."""
    return negative_guidance(e, e_c, e_safe, e_u, eta) + weight * attention.norm(dim=1)


def reverse_contrast(attention: Tensor, others: Tensor) -> Tensor:  # (n, N), (n, 1 + K, N) -> (n,)
    """L_rsc; others: the attention to the synonym, then to the irrelevant words."""
    similar = cosine_similarity(attention[:, None], others, dim=2) / TEMPERATURE
    return similar.logsumexp(1) - similar[:, 1:].logsumexp(1)


def _contrast(e: Tensor, attention: Tensor, e_c: Tensor, e_safe: Tensor, others: Tensor) -> Tensor:
    return reverse_contrast(attention, others)


def objective(chosen: EraseAnythingSettings) -> Objective:
    """Steps that erase and steps that preserve, in turn."""
    loss = partial(erasing, eta=chosen.negative_guidance, weight=chosen.attention)

    def terms(
        data: Data, contexts: Contexts, maps: Mapping[str, ContextMap], settings: TuneSettings, generator: Generator
    ) -> Iterator[list[Term]]:
        points, kept = data.erase, data.keep
        steps = shuffled(len(points), settings.steps * settings.batch, generator).split(settings.batch)
        keep = iter(
            shuffled(len(kept), settings.steps * settings.batch, generator).split(settings.batch) if kept else ()
        )
        for number, i in enumerate(steps):
            at = points.x[i], points.sigma[i], contexts.neg[points.prompts[i]]
            references = points.e[i], data.e_safe[i]
            if number % 2 == 0:
                yield [Term(*at, (*references, points.e_u[i]), loss, 1.0)]
                continue
            step = [Term(*at, (*references, data.attention[i]), _contrast, chosen.contrast)]
            if kept and contexts.keep:
                j = next(keep)
                texts = contexts.keep[kept.prompts[j]]
                step.append(Term(kept.x[j], kept.sigma[j], texts, (kept.e[j],), drift, chosen.preserve))
            yield step

    return terms


def other_words(pairs: Sequence[ConceptPair], keep: Sequence[str], seed: int) -> dict[str, tuple[str, ...]]:
    """By concept, its synonym and then IRRELEVANT words, which are the same for all concepts."""
    concepts = [pair.concept for pair in pairs]
    short = [line for line in keep if len(line.split()) <= LONGEST]
    groups = [[word for word in group if not mentions(word, concepts)] for group in (short, EVERYDAY)]
    words = draw_in_turn(groups, IRRELEVANT, Generator().manual_seed(seed))
    found = {}
    for pair in pairs:
        same = (other.concept for other in pairs if pair.safe and other.safe == pair.safe and other != pair)
        found[pair.concept] = (next(same, bare(pair.concept)), *words)
    return found


def erase(job: Job, settings: EraseAnythingSettings) -> Edit:
    """Raises MethodError for a model without a text stream of its own, TokenError, TuningError and OutOfMemory."""
    model = job.tunable(settings.resolution)
    if ADDED not in model.sets:
        raise MethodError(
            "EraseAnything trains the queries and keys of a text stream ('added'), and the connected 'model' has only "
            f"{', '.join(model.sets)}; it is for SD3, Flux, Flux.2, Chroma, Qwen-Image and HunyuanVideo. Choose "
            "another method, such as esd."
        )
    others = other_words(job.pairs, job.keep, settings.seed)
    return edit_trained(job, model, settings, objective(settings), others)
