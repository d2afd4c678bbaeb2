"""Lists to start from, by title: what people ask to have erased, and what they ask to keep.

They are starting points to read and to edit, neither complete nor a promise: what is not named, or not near to what is
named, is not erased.
"""

import re
from pathlib import Path

DATA = Path(__file__).parent / "data"


def _read(name: str) -> dict[str, str]:
    text = (DATA / name).read_text(encoding="utf-8")
    _, *parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return {title: lines.strip() for title, lines in zip(parts[::2], parts[1::2])}


ERASE_PRESETS = _read("erase.txt")
KEEP_PRESETS = _read("keep.txt")
