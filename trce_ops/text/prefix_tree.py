"""Encodes prompts that share a beginning, each beginning once.

A causal text encoder computes a token only from those before it, so "a photo of a star" and "a photo of a gun" share
the embeddings of "a photo of a". The prompts are laid out as a tree of tokens and encoded as one sequence in which
every token sees its ancestors, so the embeddings are those of the prompts encoded separately.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .tokens import Ids

NODES = 128  # tokens encoded as one sequence: large enough to keep a device busy, small enough for cheap attention


@dataclass
class PrefixTree:
    """Tokens, every one after its parent."""

    tokens: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # position of every token in its prompts
    paths: dict[Ids, list[int]] = field(default_factory=dict)  # the tokens of every prompt, by index
    children: dict[tuple[int, int], int] = field(default_factory=dict)  # (parent or -1, token) -> index

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, ids: Ids, length: int) -> None:
        """Add the first `length` tokens of a prompt to the tree."""
        path, parent = [], -1
        for place, token in enumerate(ids[:length]):
            index = self.children.setdefault((parent, token), len(self))
            if index == len(self):
                self.tokens.append(token)
                self.places.append(place)
            path.append(index)
            parent = index
        self.paths[ids] = path

    def attention_mask(self) -> Tensor:  # (n, n) bool
        """Whether a token (row) sees another (column): its ancestors and itself."""
        mask = torch.eye(len(self), dtype=torch.bool)
        for (parent, _), index in self.children.items():  # in the order of the tokens
            if parent >= 0:
                mask[index] |= mask[parent]
        return mask


@runtime_checkable
class PrefixEncoder(Protocol):
    """A text encoder that accepts an attention mask."""

    def encode_tree(self, tree: PrefixTree) -> Tensor:  # (n, d) float32, CPU
        """Embeddings of all tokens of the tree."""
        ...


def prefix_trees(lengths: Mapping[Ids, int], nodes: int = NODES) -> Iterator[PrefixTree]:
    """Trees of up to `nodes` tokens, or of one prompt, that hold the first `lengths[ids]` tokens of every prompt."""
    tree = PrefixTree()
    for ids in sorted(lengths, key=lambda ids: ids[: lengths[ids]]):
        if tree.paths and len(tree) + lengths[ids] > nodes:
            yield tree
            tree = PrefixTree()
        tree.add(ids, lengths[ids])
    if tree.paths:
        yield tree
