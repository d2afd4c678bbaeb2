"""Everyday captions, written for this project: harmless prompts whose embeddings an erasure must not move."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).with_name("data")


def read_lines(name: str) -> tuple[str, ...]:
    """The lines of a file in data/."""
    return tuple((DATA / name).read_text(encoding="utf-8").splitlines())


BENIGN_CAPTIONS = read_lines("benign.txt")

# Captions that describe by comparison instead of by name. Concepts are described that way too, and tuning aims at such
# descriptions; these must stay as they are.
COMPARISONS = read_lines("comparisons.txt")
