"""Learned words in prompts: vectors that have a name, which stands in a text like any word.

A name is made from the vectors themselves, so that the same prompt always means the same. The ids of its tokens lie
above every vocabulary.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .tokens import CHUNK, Ids, TokenError, first_eot

NAME = re.compile(r"(\*[0-9a-f]{12})")
FIRST = 1 << 24  # id of the first vector


def name_of(vectors: Tensor) -> str:  # (k, e)
    """The name of a word."""
    return f"*{hashlib.sha256(vectors.float().cpu().contiguous().numpy().tobytes()).hexdigest()[:12]}"


@dataclass(frozen=True)
class LearnedWords:
    """Vectors (k, e) by name."""

    vectors: Mapping[str, Tensor] = field(default_factory=dict)

    def ids(self, name: str) -> Ids:
        """Of the tokens of a word. Raises TokenError for one that is not known."""
        if name not in self.vectors:
            raise TokenError(f"'{name}' is the name of a learned word that is not known here.")
        names = list(self.vectors)
        first = FIRST + sum(len(self.vectors[other]) for other in names[: names.index(name)])
        return tuple(range(first, first + len(self.vectors[name])))

    def tokenize(self, text: str, tokenize: Callable[[str], Ids], eot_id: int) -> Ids:
        """The ids of a text that may hold names. Raises TokenError when it is too long."""
        head, *rest = NAME.split(text)
        if not rest:
            return tokenize(text)
        ids = tokenize(head)
        start, content, end = ids[:1], list(ids[1 : first_eot(ids, eot_id)]), tokenize("")[1:]
        for name, after in zip(rest[::2], rest[1::2]):
            following = tokenize(after)
            content += [*self.ids(name), *following[1 : first_eot(following, eot_id)]]
        if len(content) > CHUNK - 2:
            raise TokenError(f"'{text[:60]}' is longer than the {CHUNK - 2} tokens that fit in one prompt; shorten it.")
        return (*start, *content, *end[: CHUNK - 1 - len(content)])

    def placed(self, ids: Sequence[int], part: slice) -> list[int | Tensor]:
        """The ids with vectors in the place of those of learned words; part: of the vectors, for one encoder."""
        rows = [row[part] for vectors in self.vectors.values() for row in vectors]
        return [rows[token - FIRST] if token >= FIRST else token for token in ids]


NO_WORDS = LearnedWords()
