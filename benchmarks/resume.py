"""Figures that a benchmark has measured already: it can be stopped at any time and goes on from its --json file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read(path: Path | None) -> Any:
    """What is in the file; None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else None


def write(path: Path | None, found: Any) -> None:
    """Whole or not at all: written beside, then renamed."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)
