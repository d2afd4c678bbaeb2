"""Lists in widgets and in reports."""

from __future__ import annotations

from collections.abc import Sequence


def listed(title: str, lines: Sequence[str]) -> list[str]:
    """The lines under a title that counts them; nothing if there are no lines."""
    return [f"{title} ({len(lines)}):", *(f"  {line}" for line in lines)] if lines else []


def lines(text: str) -> list[str]:
    """The lines of a widget, without blank ones."""
    return [line.strip() for line in text.splitlines() if line.strip()]
