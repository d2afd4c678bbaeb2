"""Plain text for ComfyUI's tokenizers, which would find weights and textual inversions in it."""

from __future__ import annotations

import re

from ...trce_ops.text.tokens import TokenError


def check_literal(text: str) -> None:
    """Raises TokenError for a textual inversion: a delta has to be reproducible from the words it names."""
    if re.search(r"(^|\s)embedding:", text):
        raise TokenError(f"'{text[:60]}' names a textual inversion ('embedding:'); write words instead.")


def escape(text: str) -> str:
    """The text with its parentheses escaped, so that "(x:1.2)" is no weight; those that are escaped stay so.

    "saber (fate)" and "saber \\(fate\\)" both get the tokens of the prompt "saber \\(fate\\)".
    """
    return re.sub(r"(?<!\\)[()]", r"\\\g<0>", text)
