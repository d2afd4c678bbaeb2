"""Prompts with learned vectors in place of words, and gradients with respect to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ..text.tokens import CHUNK, Ids, first_eot
from .losses import GRADIENT_SCALE
from .text_batch import Texts

Key = TypeVar("Key", bound=Hashable)
Row = Sequence[int | Tensor]  # of one prompt: ids, and vectors (e,) in the place of some


class SoftPromptError(ValueError):
    """Learned vectors that have no place in a prompt, or whose gradient overflows."""


class SoftEncoder(Protocol):
    """A text encoder, or several side by side, as a function of its token vectors, as the host provides it."""

    eot_id: int

    def tokenize(self, text: str) -> Ids:
        """The ids of a prompt, with its padding."""
        ...

    def look_up(self, ids: Sequence[int]) -> Tensor:  # (n, e) float32
        """The vectors of tokens."""
        ...

    def products(self, vectors: Tensor) -> Tensor:  # (k, e) -> (k, V) on the CPU
        """Inner product of every vector with every token of the vocabulary."""
        ...

    def words(self) -> tuple[Tensor, list[str]]:  # ids (w,) on the CPU
        """The tokens that are whole words, and their spelling."""
        ...

    def encode(self, rows: Sequence[Row]) -> Texts:
        """The prompts as the diffusion model reads them, with a graph back to the vectors in them."""
        ...


def put_before(prefix: Row | Tensor, ids: Ids, eot_id: int) -> list[int | Tensor]:
    """The prompt with `prefix` before its first word. Raises SoftPromptError when it becomes too long."""
    if first_eot(ids, eot_id) + len(prefix) >= CHUNK:
        raise SoftPromptError(f"'prompt' has no room for {len(prefix)} more tokens; shorten it.")
    return [ids[0], *prefix, *ids[1 : CHUNK - len(prefix)]]


def put_in_place(vectors: Tensor, text: str, encoder: SoftEncoder, mark: str = "*") -> list[int | Tensor]:
    """The prompt with `vectors` (k, e) where the word `mark` stands.

    Raises SoftPromptError if it does not occur once, or the prompt is too long.
    """
    words = text.split()
    if words.count(mark) != 1:
        raise SoftPromptError(f"'templates': '{text}' must have the word '{mark}' once, for what is learned.")
    at = words.index(mark)
    before, after = (encoder.tokenize(" ".join(part)) for part in (words[:at], words[at + 1 :]))
    head, tail = before[: first_eot(before, encoder.eot_id)], after[1:]
    row = [*head, *vectors, *tail]
    if len(head) + len(vectors) + first_eot(after, encoder.eot_id) > CHUNK:
        raise SoftPromptError(f"'templates': '{text}' is longer than the {CHUNK - 2} tokens of a prompt; shorten it.")
    return row[:CHUNK]


def put_at(vectors: Tensor, ids: Ids, positions: Collection[int]) -> list[int | Tensor]:
    """The prompt with `vectors` (k, e) in the place of every run of tokens at `positions`, as long as it was."""
    row: list[int | Tensor] = []
    for position, token in enumerate(ids):
        if position not in positions:
            row.append(token)
        elif position - 1 not in positions:
            row.extend(vectors)
    return [*row, *ids[-1:] * len(ids)][: len(ids)]


def encode_distinct(keys: Sequence[Key], write: Callable[[Key], Row], encoder: SoftEncoder) -> Texts:
    """The prompts write(key) for all keys, with each different one encoded once."""
    different = list(dict.fromkeys(keys))
    texts = encoder.encode([write(key) for key in different])
    order = torch.tensor([different.index(key) for key in keys])
    return texts.each(lambda z: z[order.to(z.device)])


def text_gradient(losses: Callable[[slice, Texts], Tensor], texts: Texts, rows: int) -> tuple[float, Texts]:
    """Mean of losses(part, texts[part]) (k,) over all texts, and its gradient with respect to them.

    `rows` of them have a graph at a time. When gradients overflow in half precision, they are computed again at half
    the scale; raises SoftPromptError when that does not help, or the loss itself is NaN or Inf.
    """
    scale = GRADIENT_SCALE
    while True:
        value, gradients = 0.0, []
        for start in range(0, len(texts), rows):
            part = slice(start, start + rows)
            leaf = texts[part].each(lambda z: z.detach().clone().requires_grad_())
            loss = losses(part, leaf).sum() / len(texts)
            (scale * loss).backward()
            value += loss.item()
            gradients.append(leaf.each(lambda z: torch.zeros_like(z) if z.grad is None else z.grad / scale))  # noqa: B023
        gradient = Texts.cat(gradients)
        if all(torch.isfinite(z).all() for z in vars(gradient).values() if z is not None):
            return value, gradient
        if scale == 1 or not math.isfinite(value):
            raise SoftPromptError("The gradient of the text is NaN or Inf; load the model in bf16 or fp32.")
        scale /= 2


def pull_back(texts: Texts, gradient: Texts) -> None:
    """Backpropagate the gradient of the texts to the vectors they were computed from."""
    pairs = [(z, g) for z, g in zip(vars(texts).values(), vars(gradient).values()) if z is not None and z.requires_grad]
    torch.autograd.backward([z for z, _ in pairs], [g.to(z.device, z.dtype) for z, g in pairs])
