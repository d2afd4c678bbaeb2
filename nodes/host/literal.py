"""Stops ComfyUI's tokenizers from interpreting weights and textual inversions in a text."""

from __future__ import annotations

import re

from ...trce_ops.text.tokens import TokenError


def check_literal(text: str) -> None:
    """Raises TokenError for a textual inversion, because a delta has to be reproducible from the words it names."""
    if re.search(r"(^|\s)embedding:", text):
        raise TokenError(f"'{text[:60]}' names a textual inversion ('embedding:'); write words instead.")


def escape(text: str) -> str:
    """Escape the parentheses of a text, so that "(x:1.2)" is no weight. Escaped ones stay as they are.

    "saber (fate)" and "saber \\(fate\\)" both get the tokens of the prompt "saber \\(fate\\)".
    """
    return re.sub(r"(?<!\\)[()]", r"\\\g<0>", text)
