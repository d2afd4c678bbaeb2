"""From prompt pairs to embedding pairs: which token's embedding is mapped to which.

In a causal text encoder, position p depends only on the tokens up to p. So CLIP prompts are encoded only up to the last
position in use, and beginnings that prompts share only once (prefix_tree.py). If the first EoT is the only role, this
is a twentieth of the 77 positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol

import torch
from torch import Tensor

from ..progress import Progress
from .prefix_tree import PrefixEncoder, prefix_trees
from .prompts import PromptPair
from .tokens import Ids, Roles, TokenError, TokenWeights, content, locate, non_empty

BATCH = 32


class TextEncoder(Protocol):
    """A text encoder, as the host provides it, with the user's patches and clip skip."""

    width: int  # d
    layers: int  # embeddings per token that the diffusion model gets; one map serves all of them
    fingerprint: str  # equal for encoders with the same weights, whatever device or precision they are in

    @property
    def cache_key(self) -> str:
        """Also depends on how the same weights tokenize and encode, and on which of several encoders this is."""
        return self.fingerprint

    def tokenize(self, text: str) -> Ids:
        """The ids of a prompt, with its padding; raises TokenError when it is too long."""
        ...

    def length(self, ids: Ids) -> int:
        """How many embeddings the diffusion model is given for a prompt."""
        return len(ids)

    def locate(self, ids: Ids, keyword: str = "") -> Roles:
        """Positions of every role among these embeddings; raises TokenError when the keyword is not there."""
        ...

    def encode(self, rows: Sequence[Ids], length: int) -> Tensor:  # (n, length, layers * d) float32, CPU
        """The first `length` embeddings of every row, all layers side by side; past a row's own length undefined."""
        ...


class EotEncoder(TextEncoder):
    """What all CLIP encoders share: causal, one padded chunk of ids with an end-of-text token."""

    eot_id: int
    layers = 1

    def locate(self, ids: Ids, keyword: str = "") -> Roles:
        keyword_ids = non_empty(keyword, content(self.tokenize(keyword), self.eot_id)) if keyword else ()
        return locate(ids, keyword_ids, self.eot_id)


class Pooled:
    """The pooled vectors of an encoder as prompts of one token, the first EoT. Needs `pooled_width` and `pool`."""

    layers = 1

    def __init__(self, encoder):
        self.encoder = encoder
        self.width = encoder.pooled_width
        self.fingerprint = f"{encoder.fingerprint} pooled"
        self.cache_key = f"{encoder.cache_key} pooled"
        self.tokenize = encoder.tokenize

    def length(self, ids: Ids) -> int:
        return 1

    def locate(self, ids: Ids, keyword: str = "") -> Roles:
        return Roles((), 0, (), sot=())

    def encode(self, rows: Sequence[Ids], length: int) -> Tensor:  # (n, 1, d)
        return self.encoder.pool(rows)[:, None]


@dataclass(frozen=True)
class EmbeddingPairs:
    """Row i: map sources[i] to targets[i] with weights[i]."""

    sources: Tensor  # (n, d) float32
    targets: Tensor  # (n, d) float32
    weights: Tensor  # (n,) float32
    roles: tuple[str, ...]  # per row: sot, keyword, first_eot or pads
    concepts: tuple[str, ...]  # per row
    alike: Mapping[str, str]  # concept -> another, whose rows its prompts share

    def __len__(self) -> int:
        return len(self.roles)


def encode_batches(
    encoder: TextEncoder, lengths: Mapping[Ids, int], progress: Progress
) -> Iterator[tuple[list[Ids], Tensor]]:
    """Encode every row up to its own length, in batches of similar length. Yields (rows, z (b, L, layers * d))."""
    rows = sorted(lengths, key=lengths.__getitem__)
    size = max(1, BATCH // encoder.layers)
    for start in range(0, len(rows), size):
        progress(start, len(rows))
        batch = rows[start : start + size]
        yield batch, encoder.encode(batch, lengths[batch[-1]])
    progress(len(rows), len(rows))


def encode_prefixes(
    encoder: TextEncoder, lengths: Mapping[Ids, int], progress: Progress
) -> Iterator[tuple[list[Ids], Sequence[Tensor] | Tensor]]:
    """Like encode_batches, with shared beginnings encoded once. Yields (rows, embeddings (L, d) of each)."""
    if not isinstance(encoder, PrefixEncoder):
        yield from encode_batches(encoder, lengths, progress)
        return
    done = 0
    for tree in prefix_trees(lengths):
        progress(done, len(lengths))
        z = encoder.encode_tree(tree)
        yield list(tree.paths), [z[path] for path in tree.paths.values()]
        done += len(tree.paths)
    progress(done, len(lengths))


def pair_positions(source: Roles, target: Roles, weights: TokenWeights) -> Iterator[tuple[str, int, int, float]]:
    """(role, source position, target position, weight) for every role that has a weight.

    - SoT to SoT. A causal encoder gives every prompt the same SoT, so this only holds it in place.
    - Each keyword token to the last token of the safe target in the same place, which has attended to all of it; to the
      first EoT if the safe target is empty.
    - First EoT to first EoT. In encoders without an EoT, the other text tokens share this role and go to the same place
      of the target sentence; to the target's first EoT if the safe target is empty.
    - Padding at position p to the padding at position p, because padding differs by position; to the target's first EoT
      if position p still holds text there.
    """
    if weights.sot:
        yield from (("sot", p, p, weights.sot) for p in source.sot)
    if weights.keyword and source.keyword:
        last = same_place(source.keyword[-1], source, target)
        yield from (("keyword", p, last, weights.keyword) for p in source.keyword)
    if weights.first_eot:
        yield "first_eot", source.first_eot, target.first_eot, weights.first_eot
        yield from (("first_eot", p, same_place(p, source, target), weights.first_eot) for p in source.others)
    if weights.pads:
        pads = set(target.pads)
        yield from (("pads", p, p if p in pads else target.first_eot, weights.pads) for p in source.pads)


def same_place(p: int, source: Roles, target: Roles) -> int:
    """Position of the source token p in the target sentence: the same before the keyword, as far from the end after."""
    if not (source.keyword and target.keyword):
        return target.first_eot
    return p if p < source.keyword[0] else p + target.first_eot - source.first_eot


def embed_pairs(
    prompts: Sequence[PromptPair], encoder: TextEncoder, weights: TokenWeights, progress: Progress = lambda *_: None
) -> EmbeddingPairs:
    """Encode the prompts and pair their tokens by role, with the weights of the roles; see embed_positions."""
    return embed_positions(prompts, encoder, partial(pair_positions, weights=weights), progress)


def locate_pairs(
    prompts: Sequence[PromptPair], encoder: TextEncoder, field: str
) -> Iterator[tuple[PromptPair, tuple[Ids, Ids], tuple[Roles, Roles]]]:
    """The prompts with ids and roles of source and target.

    Raises TokenError, naming the widget `field` and the line, for a prompt longer than one chunk.
    """
    tokenize, locate = cache(encoder.tokenize), cache(encoder.locate)  # many concepts share targets
    for prompt in prompts:
        try:
            ids = tokenize(prompt.source), tokenize(prompt.target)
            roles = locate(ids[0], prompt.keyword), locate(ids[1], prompt.safe_keyword)
        except TokenError as error:
            raise TokenError(f"The line of '{prompt.concept}' in '{field}' cannot be used. {error}") from None
        yield prompt, ids, roles


def embed_positions(
    prompts: Sequence[PromptPair],
    encoder: TextEncoder,
    positions: Callable[[Roles, Roles], Iterable[tuple[str, int, int, float]]],
    progress: Progress = lambda *_: None,
    field: str = "concepts",
) -> EmbeddingPairs:
    """Encode the prompts and pair the tokens that `positions` returns for source and target, as pair_positions does.

    Prompts with the same ids are encoded and counted once, for the first concept. With an encoder of several layers,
    every pair counts once per layer. Raises what locate_pairs does.
    """
    slots: dict[Ids, list[tuple[int, int]]] = {}  # ids -> (row of the table, position)
    columns: list[tuple[str, str, float]] = []
    concept_of: dict[tuple[Ids, Ids], str] = {}
    alike: dict[str, str] = {}
    for prompt, ids, roles in locate_pairs(prompts, encoder, field):
        if ids in concept_of:
            alike.setdefault(prompt.concept, concept_of[ids])
            continue
        concept_of[ids] = prompt.concept
        source, target = ids
        for role, p, q, weight in positions(*roles):
            slots.setdefault(source, []).append((2 * len(columns), p))
            slots.setdefault(target, []).append((2 * len(columns) + 1, q))
            columns.append((role, prompt.concept, weight))

    table = torch.empty(2 * len(columns), encoder.layers * encoder.width)  # sources and targets by turns
    lengths = {ids: 1 + max(p for _, p in uses) for ids, uses in slots.items()}
    for batch, z in encode_prefixes(encoder, lengths, progress):
        for ids, embeddings in zip(batch, z):
            rows, at = zip(*slots[ids])
            table[list(rows)] = embeddings[list(at)]
    sources, targets = (part.reshape(-1, encoder.width) for part in (table[0::2], table[1::2]))
    columns = [column for column in columns for _ in range(encoder.layers)]
    roles, concepts, row_weights = zip(*columns) if columns else ((), (), ())
    return EmbeddingPairs(sources, targets, torch.tensor(row_weights), roles, concepts, alike)
