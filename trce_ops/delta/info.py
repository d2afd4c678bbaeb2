"""The metadata of an erased delta.

In the file all values are strings: method, family, space, encoder and pack_version as they are, and as JSON settings,
concepts ([[concept, safe], ...]), keep ([caption, ...]) and measured ({figure: number}).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..text.concepts import MAX_LINE_LENGTH, MAX_LINES, ConceptPair

STRINGS = ("method", "family", "space", "encoder", "pack_version")
MAX_NAME = 200  # characters of these
SPACES = ("embedding", "post-norm")


class DeltaError(ValueError):
    """A file that is not an erased delta, or one that this version cannot use."""


@dataclass(frozen=True)
class DeltaInfo:
    """What a delta erases, how it was made, and its figures.

    encoder: fingerprint of the text encoder. space: where the maps act, on embeddings as the text encoder gives them,
    or after the norm with which some models begin (post-norm); the fingerprint then includes that norm.
    """

    family: str
    encoder: str
    concepts: tuple[ConceptPair, ...]
    keep: tuple[str, ...] = ()
    method: str = "trce-closed-form"
    settings: Mapping[str, float | bool | str] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    pack_version: str = ""
    space: str = "embedding"


def write_info(info: DeltaInfo) -> dict[str, str]:
    """The metadata as strings."""
    return {
        **{key: getattr(info, key) for key in STRINGS},
        "settings": json.dumps(dict(info.settings), sort_keys=True),
        "concepts": json.dumps([[pair.concept, pair.safe] for pair in info.concepts]),
        "keep": json.dumps(list(info.keep)),
        "measured": json.dumps(dict(info.measured), sort_keys=True),
    }


def read_info(metadata: Mapping[str, str]) -> DeltaInfo:
    """The metadata from strings. Raises DeltaError when something is missing, of the wrong kind, or too long."""
    try:
        concepts, keep, settings, measured = (
            json.loads(metadata[key]) for key in ("concepts", "keep", "settings", "measured")
        )
        info = DeltaInfo(
            **{key: metadata[key] for key in STRINGS},
            concepts=tuple(ConceptPair(concept, safe) for concept, safe in concepts),
            keep=tuple(keep),
            settings=dict(settings),
            measured=dict(measured),
        )
        texts = [text for pair in info.concepts for text in (pair.concept, pair.safe)] + list(info.keep)
        names = [metadata[key] for key in STRINGS]
        "".join((*texts, *names)).encode()
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DeltaError(f"its metadata does not describe an erasure ({type(error).__name__}: {error}).") from None
    if info.space not in SPACES:
        raise DeltaError(f"its maps act in the space {info.space!r}; this pack knows {' and '.join(SPACES)}.")
    numbers = all(isinstance(number, int | float) for number in info.measured.values())
    if not numbers or not all(isinstance(value, int | float | str) for value in info.settings.values()):
        raise DeltaError("its metadata does not describe an erasure (a text or number is of the wrong kind).")
    lines = max(map(len, (info.concepts, info.keep, info.settings, info.measured)))
    if lines > MAX_LINES or max(map(len, texts), default=0) > MAX_LINE_LENGTH or max(map(len, names)) > MAX_NAME:
        raise DeltaError("its metadata is too long: more than the nodes accept in their lists.")
    return info
