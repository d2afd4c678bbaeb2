"""Lists as lines of a report."""

from __future__ import annotations

from collections.abc import Sequence


def listed(title: str, lines: Sequence[str]) -> list[str]:
    """The lines under a title that counts them; nothing where there is none."""
    return [f"{title} ({len(lines)}):", *(f"  {line}" for line in lines)] if lines else []
