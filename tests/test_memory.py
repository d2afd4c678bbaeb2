"""Nothing of ours keeps a model, a text encoder or a delta alive, and memory stays flat over many erasures.

TRCE_CYCLES says how many cycles of erase, apply and free.
"""

import gc
import os
import statistics
import time
import weakref

import psutil
import pytest

CYCLES = int(os.environ.get("TRCE_CYCLES", 50))
SLACK = 64  # MiB


@pytest.fixture
def kept_alive(comfy_host):
    """kept_alive(make) -> names of what `make`, which returns objects by name, leaves behind when they are let go."""
    import comfy.model_management

    def check(make):
        alive = {name: weakref.ref(thing) for name, thing in make().items()}
        comfy.model_management.unload_all_models()
        comfy.model_management.cleanup_models_gc()
        gc.collect()
        return [name for name, ref in alive.items() if ref() is not None]

    return check


def parts(**patchers):
    """MODELs and CLIPs by name, with the torch modules they hold."""
    modules = {f"{name}'s module": getattr(p, "model", None) or p.cond_stage_model for name, p in patchers.items()}
    return patchers | modules


CONCEPTS = dict(concepts="a star -> a circle", keep="a square")
SHORT = dict(mode="custom", tune_steps=2, tune_trajectories=1, tune_batch=1, tune_resolution=32)


@pytest.mark.parametrize("mode", [{}, SHORT], ids=["closed form", "tuned"])
def test_erasing_keeps_nothing_alive(run, make_model, make_clip, sample, kept_alive, mode):
    def erase():
        model, clip = make_model(), make_clip()
        erased, delta, *_ = run("TRCEErase", model=model, clip=clip, **CONCEPTS, **mode)
        sample(erased, *(clip.encode_from_tokens(clip.tokenize(text)) for text in ("a star", "")))
        return parts(model=model, clip=clip, erased=erased) | {"delta": delta}

    assert not kept_alive(erase)
