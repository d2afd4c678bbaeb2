"""Token positions of a prompt by role: start, keyword, first end of text, padding.

TRCE maps the first end-of-text token ([EoT]) because a causal text encoder gathers the whole sentence there.
Every position comes from token ids. Counting words instead, as the official code does, lands on a content token
whenever a word splits into several tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CHUNK = 77

Ids = tuple[int, ...]  # the token ids of one prompt


class TokenError(ValueError):
    """A prompt whose tokens cannot be used."""


@dataclass(frozen=True)
class TokenWeights:
    """Weight of each role. Every token position of a role counts with that weight; 0 leaves the role out."""

    sot: float = 0.0
    keyword: float = 1.0
    first_eot: float = 1.0
    pads: float = 0.0

    def __post_init__(self):
        for role, weight in vars(self).items():
            if not 0 <= weight < float("inf"):
                raise TokenError(f"The token weight '{role}' is {weight}; it must be 0 or more.")
        if not any(vars(self).values()):
            raise TokenError("All token weights are 0, so nothing would be erased; raise 'weight_first_eot'.")


@dataclass(frozen=True)
class Roles:
    """Token positions of a prompt by role.

    Encoders without an end-of-text token that summarises the sentence use all tokens of the text except the keyword's
    instead: the last of them is `first_eot`, the rest are `others`.
    """

    keyword: tuple[int, ...]
    first_eot: int
    pads: tuple[int, ...]
    others: tuple[int, ...] = ()
    sot: tuple[int, ...] = (0,)


def first_eot(token_ids: Sequence[int], eot_id: int) -> int:
    """Position of the first end-of-text token; the positions after it are padding, whatever id they hold."""
    try:
        return list(token_ids).index(eot_id)
    except ValueError:
        raise TokenError(f"No end-of-text token ({eot_id}) among the {len(token_ids)} tokens given.") from None


def content(token_ids: Sequence[int], eot_id: int) -> Ids:
    """The ids between the start token and the first end of text."""
    return tuple(token_ids[1 : first_eot(token_ids, eot_id)])


def non_empty(keyword: str, ids: Sequence[int]) -> Ids:
    """The ids of a keyword. Raises TokenError when the encoder drops all of its characters."""
    if not ids:
        raise TokenError(f"The text encoder reads nothing in {keyword!r}; write words.")
    return tuple(ids)


def find_runs(token_ids: Sequence[int], *runs: Sequence[int]) -> tuple[int, ...]:
    """Positions of every occurrence of the runs, the ways to tokenize one keyword; () for an empty keyword.

    Every occurrence, because in "a photo of a photo album" both are the concept's word.
    Raises TokenError when there is none.
    """
    ids, ways = tuple(token_ids), {tuple(run) for run in runs}
    if ways == {()}:
        return ()
    found = {i + k for run in ways for i in range(len(ids)) if ids[i : i + len(run)] == run for k in range(len(run))}
    if not found:
        raise TokenError("The concept's tokens do not occur in its own prompt; put a space around the concept.")
    return tuple(sorted(found))


def find_keyword(token_ids: Sequence[int], keyword_ids: Sequence[int], eot_id: int) -> tuple[int, ...]:
    """find_runs between the start token and the first EoT. Raises TokenError when there is none."""
    return tuple(1 + i for i in find_runs(content(token_ids, eot_id), keyword_ids))


def locate(token_ids: Sequence[int], keyword_ids: Sequence[int], eot_id: int) -> Roles:
    """Positions of every role in a prompt of one chunk; `keyword_ids` are the concept's own ids, () for none."""
    eot = first_eot(token_ids, eot_id)
    return Roles(find_keyword(token_ids, keyword_ids, eot_id), eot, tuple(range(eot + 1, len(token_ids))))
