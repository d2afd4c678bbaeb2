"""Erases "cigarette" from the demo model by mode tuned: `python demo/tune_example.py` (with COMFYUI_PATH set).

The tuning takes some eight minutes of one core on the narrow network, and is then filled up with zeros to the size of
Stable Diffusion 1.5, as the checkpoint is. Writes examples/erased_deltas/example_cigarette_tuned.safetensors, which
`python dev.py demo` shows beside the closed form.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import erasing
from checkpoint import expand, unet_spans, widen
from compact import load_compact
from in_comfyui import load_world, pack
from torch import Tensor

TUNED = Path(__file__).parent / "examples" / "erased_deltas" / "example_cigarette_tuned.safetensors"
CONCEPT, RESOLUTION = "cigarette", 64


def resized(delta: Any, change: Callable[[Tensor, str], Tensor]) -> Any:
    """The delta with `change` applied to the outputs of every tuned projection."""
    tuned = {}
    for module, low_rank in delta.tuned.items():
        up, *down = low_rank.factors
        tuned[module] = replace(low_rank, factors=(change(up, module.removeprefix("diffusion_model.")), *down))
    return replace(delta, tuned=tuned)


def to_stock_size(delta: Any) -> Any:
    """A delta of the narrow network as one of the checkpoint."""
    return resized(delta, lambda up, name: widen(up, unet_spans(name)[0]))


def to_narrow(delta: Any) -> Any:
    """A delta of the checkpoint as one of the narrow network."""
    return resized(delta, lambda up, name: up[: sum(used for used, _ in unet_spans(name)[0] or ())].clone())


def main() -> None:
    world = load_world()
    import comfy.sd

    concepts, methods, trce = (pack(f"trce_ops.{name}") for name in ("text.concepts", "methods", "methods.trce"))
    pairs = concepts.parse_concepts(erasing.concepts_text(CONCEPT))
    keep = concepts.parse_keep(erasing.keep_text(CONCEPT))
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(trce.BOTH, tuning=replace(trce.BOTH.tuning, resolution=RESOLUTION))
        lent = pack("nodes.host.lend").lend(world.model, world.clip)
        delta, report = methods.erase_with("trce", pairs, keep, settings=settings, cache_dir=folder, **lent)
    print(report.text())
    # the checkpoint's text encoder has more layers, which add exactly zero
    _, stock, *_ = comfy.sd.load_state_dict_guess_config(expand(load_compact()))
    fingerprint = pack("nodes.host.fingerprint").encoder_fingerprint(stock)
    delta = replace(delta, info=replace(delta.info, encoder=fingerprint))
    pack("trce_ops.delta").save_delta(to_stock_size(delta), TUNED)
    print(f"{TUNED}: {TUNED.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
