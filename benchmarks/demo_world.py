"""Gets the benchmarks at the emoji world, at ComfyUI and at the pack; none of them is a package on sys.path."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from fractions import Fraction
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))

import erasing  # noqa: E402
from in_comfyui import World, load_flow_world, load_world, pack  # noqa: E402

SEED = 100
CACHE = "COMFYUI_TRCE_BENCH_CACHE"  # environment variable: a folder to keep tunings in between runs on the same code
FROM_PICTURES = ("from-pictures", "from-pictures-tuned")  # beside the methods of the pack
SHOWN = 8  # pictures of what is erased
RESOLUTION = 64  # of the demo model's pictures
# Where a paper's value does nothing at this scale, one chosen on erasing.TUNING; all else are the methods' defaults.
CHOSEN = {"esd": "learning_rate=1e-4"}


def asked(*things: str) -> tuple[list, list]:
    """The concept pairs and the keep list with which things are erased."""
    concepts = pack("trce_ops.text.concepts")
    return concepts.parse_concepts(erasing.concepts_text(*things)), concepts.parse_keep(erasing.keep_text(*things))


def method_settings(text: str):
    """The method and the settings of "NAME" or "NAME:knob=value,part.knob=value", on top of what was CHOSEN.

    A value is in JSON, or xN for N times what it was, or, for TRCE's `tuning`, the name of a preset.
    Raises SystemExit for a method, knob or value that there is not.
    """
    methods = pack("trce_ops.methods").METHODS
    name, _, given = text.partition(":")
    if name not in methods:
        raise SystemExit(f"--method {name}: choose from {', '.join((*methods, *FROM_PICTURES))}")
    settings = at_resolution(methods[name].settings)
    for knob in filter(None, f"{CHOSEN.get(name, '')},{given}".split(",")):
        path, _, value = knob.partition("=")
        try:
            settings = turn(settings, path.split("."), value)
        except (AttributeError, TypeError, ValueError) as error:
            raise SystemExit(f"--method {text}: {knob!r} cannot be set: {error}") from None
    return name, settings


def at_resolution(settings):
    """The settings of a method, with trained ones at the demo model's resolution."""
    if hasattr(settings, "resolution"):
        return replace(settings, resolution=RESOLUTION)
    tuning = getattr(settings, "tuning", None)
    return replace(settings, tuning=replace(tuning, resolution=RESOLUTION)) if tuning else settings


def turn(settings, path: Sequence[str], value: str):
    """The settings with the knob at `path` at another value."""
    old = getattr(settings, path[0])
    if path[1:]:
        new = turn(old, path[1:], value)
    elif is_dataclass(old):
        new = replace(getattr(pack("trce_ops.tuning.settings"), value), resolution=old.resolution)
    elif value.startswith("x"):
        new = old * float(Fraction(value[1:]))
    else:
        new = value if isinstance(old, str) else type(old)(json.loads(value))
    return replace(settings, **{path[0]: new})


def from_pictures(bench: Bench, thing: str, tuned: bool):
    """Erase from Pictures on 8 pictures of the thing, without its name: the delta and a report."""
    methods, words = pack("trce_ops.methods.trce"), pack("trce_ops.text.learned_words")
    node = pack("nodes.erase_from_pictures")
    world, pairs, keep = bench.world, *asked(thing)
    texts = [caption.text for caption in erasing.wordings(thing, SHOWN, SEED + SHOWN)]
    latents = world.model.model.process_latent_out(world.sample(world.model, texts, SEED + SHOWN))
    start, templates = perf_counter(), pack("trce_ops.attacks.inversion").TEMPLATES
    given = (world.model, world.clip, {"samples": latents}, None, templates, node.LEARNING, lambda *_: None)
    learned = node.learn(*given)
    print("\n".join(learned.lines))
    vectors = {words.name_of(word.vectors): word.vectors for word in learned.words}
    lent = pack("nodes.host.lend").lend(world.model, world.clip, words.LearnedWords(vectors))
    delta, report = pack("trce_ops.methods").erase_with(
        "trce" if tuned else "trce-closed-form",
        [replace(pairs[0], concept=name) for name in vectors],
        keep,
        settings=at_resolution(methods.BOTH if tuned else methods.CLOSED_FORM),
        cache_dir=bench.cache,
        **lent,
    )
    cost = {"seconds": {"all": perf_counter() - start}, "evaluations": report.evaluations + learned.queries}
    return delta, replace(report, **cost)


@dataclass
class Bench:
    """The demo model, and how the pack erases from it."""

    world: World
    temporary: tempfile.TemporaryDirectory = field(default_factory=tempfile.TemporaryDirectory)

    @property
    def cache(self) -> str:
        """Folder of preserve moments and tunings."""
        return os.environ.get(CACHE) or self.temporary.name

    def apply(self, model, delta):
        """`model` with the delta on it."""
        return pack("nodes.host.apply").apply_delta(model, delta, 1.0)

    def erase(self, thing: str, settings):
        """TRCE Erase on the demo model, as the node does it: the erased MODEL, the delta and the report."""
        lent = pack("nodes.host.lend").lend(self.world.model, self.world.clip)
        given = {"metrics": lent["metrics"](), "family": lent["family"], "cache_dir": self.cache}
        delta, report = pack("trce_ops.closed_form.erase").erase(*asked(thing), lent["encoders"], settings, **given)
        return self.apply(self.world.model, delta), delta, report

    def erase_with(self, method: str, things: Sequence[str]):
        """A method on the demo model, things at once: the erased MODEL, the delta and the report."""
        if method in FROM_PICTURES:
            delta, report = from_pictures(self, *things, tuned=method != FROM_PICTURES[0])
            return self.apply(self.world.model, delta), delta, report
        name, settings = method_settings(method)
        lent = pack("nodes.host.lend").lend(self.world.model, self.world.clip)
        delta, report = pack("trce_ops.methods").erase_with(
            name, *asked(*things), settings=settings, cache_dir=self.cache, **lent
        )
        return self.apply(self.world.model, delta), delta, report


WORLDS = {"emoji": load_world, "flow": load_flow_world}


def load(world: str = "emoji") -> Bench:
    logging.getLogger().setLevel(logging.WARNING)
    return Bench(WORLDS[world]())
