"""Gets the benchmarks at the demo world, at ComfyUI and at the pack; none of them is a package on sys.path."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))

import erasing  # noqa: E402
import world  # noqa: E402

SEED = 100


@dataclass
class Bench:
    """The demo model with the pack's own modules, and the pictures' scores before anything is erased."""

    world: world.World
    trce_erase: object  # trce_ops.erase
    trce_tokens: object  # trce_ops.tokens
    trce_concepts: object  # trce_ops.concepts
    host: object  # nodes.host

    def erase(self, thing: str, settings, concepts: str | None = None):
        """TRCE Erase on the demo model, as the node does it: the erased MODEL, the delta and the report."""
        pairs = self.trce_concepts.parse_concepts(concepts or erasing.concepts_text(thing))
        keep = self.trce_concepts.parse_keep(erasing.keep_text(thing))
        encoder = self.host.ClipEncoder(self.world.clip)
        delta, report = self.trce_erase.erase(pairs, keep, encoder, settings, family="sd1")
        return self.host.apply_delta(self.world.model, delta, 1.0), delta, report


def load() -> Bench:
    logging.getLogger().setLevel(logging.WARNING)
    demo = world.load_world()
    pack = world.load_pack().__name__
    modules = (f"{pack}.trce_ops.erase", f"{pack}.trce_ops.tokens", f"{pack}.trce_ops.concepts", f"{pack}.nodes.host")
    return Bench(demo, *(sys.modules[name] for name in modules))
