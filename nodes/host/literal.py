"""Text as it stands: no weights and no textual inversions, which ComfyUI's tokenizers would read into it."""

from __future__ import annotations

import re

from ...trce_ops.text.tokens import TokenError


def check_literal(text: str) -> None:
    """Raises TokenError for a textual inversion: a delta has to be reproducible from the words it names."""
    if re.search(r"(^|\s)embedding:", text):
        raise TokenError(f"'{text[:60]}' names a textual inversion ('embedding:'); write words instead.")


def escape(text: str) -> str:
    """The text with its parentheses escaped, so that "(x:1.2)" is no weight to any tokenizer."""
    return text.replace("(", "\\(").replace(")", "\\)")
