"""Gets the benchmarks at the demo world, at ComfyUI and at the pack; none of them is a package on sys.path."""

from __future__ import annotations

import importlib
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))

import erasing  # noqa: E402
import world  # noqa: E402

SEED = 100
RESOLUTION = 64  # of the demo model's pictures
# Where a paper's value does nothing at this scale, one chosen on erasing.TUNING; all else are the methods' defaults.
CHOSEN = {"esd": {"learning_rate": 1e-3}}


@dataclass
class Bench:
    """The demo model with the pack's own modules."""

    world: world.World
    trce_erase: ModuleType  # trce_ops.closed_form.erase
    trce_tokens: ModuleType  # trce_ops.text.tokens
    trce_concepts: ModuleType  # trce_ops.text.concepts
    host: ModuleType  # nodes.host.apply
    methods: ModuleType  # trce_ops.methods
    host_methods: ModuleType  # nodes.host.lend
    cache: tempfile.TemporaryDirectory = field(default_factory=tempfile.TemporaryDirectory)  # of preserve moments

    def erase(self, thing: str, settings, concepts: str | None = None):
        """TRCE Erase on the demo model, as the node does it: the erased MODEL, the delta and the report."""
        pairs = self.trce_concepts.parse_concepts(concepts or erasing.concepts_text(thing))
        keep = self.trce_concepts.parse_keep(erasing.keep_text(thing))
        lent = self.host_methods.lend(self.world.model, self.world.clip)
        given = {"metrics": lent["metrics"](), "family": lent["family"], "cache_dir": self.cache.name}
        delta, report = self.trce_erase.erase(pairs, keep, lent["encoder"], settings, **given)
        return self.host.apply_delta(self.world.model, delta, 1.0), delta, report

    def erase_with(self, method: str, things: Sequence[str], settings=None):
        """Any of METHODS on the demo model, things at once: the erased MODEL, the delta and the report."""
        pairs = self.trce_concepts.parse_concepts(erasing.concepts_text(*things))
        keep = self.trce_concepts.parse_keep(erasing.keep_text(*things))
        settings = settings or replace(self.methods.METHODS[method].settings, **CHOSEN.get(method, {}))
        lent = self.host_methods.lend(self.world.model, self.world.clip, RESOLUTION)
        delta, report = self.methods.erase_with(
            method, pairs, keep, settings=settings, cache_dir=self.cache.name, **lent
        )
        return self.host.apply_delta(self.world.model, delta, 1.0), delta, report


def pack(name: str) -> ModuleType:
    """A module of the pack, such as trce_ops.erase."""
    return importlib.import_module(f"{world.load_pack().__name__}.{name}")


def load() -> Bench:
    logging.getLogger().setLevel(logging.WARNING)
    demo = world.load_world()
    names = (
        *("trce_ops.closed_form.erase", "trce_ops.text.tokens", "trce_ops.text.concepts", "nodes.host.apply"),
        *("trce_ops.methods", "nodes.host.lend"),
    )
    return Bench(demo, *map(pack, names))
