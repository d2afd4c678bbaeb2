"""Orders to replace or to remove something, in the languages of the pack: they are no names of concepts.

data/orders.json has only forms that names seldom have: with the verb and, where the verb alone may be part of a name,
with its particles. Negations ("no nudity") are orders where a concept stands; a safe target may be "no hat".
"""

from __future__ import annotations

import json
from pathlib import Path

PATTERNS: dict[str, dict[str, list[str]]] = json.loads(
    (Path(__file__).parent / "data" / "orders.json").read_text(encoding="utf-8")
)
ORDER, NEGATION = (
    "(?i)" + "|".join(pattern for patterns in PATTERNS[kind].values() for pattern in patterns)
    for kind in ("orders", "negations")
)
