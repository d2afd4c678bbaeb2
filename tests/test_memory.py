"""Nothing of ours keeps a model, a text encoder or a delta alive, and memory stays flat over many erasures.

TRCE_CYCLES says how many cycles of erase, apply and free are done on the server; CI does 50.
"""

import gc
import os
import weakref

import psutil
import pytest

CYCLES = int(os.environ.get("TRCE_CYCLES", 50))
SLACK = 40  # MiB: one model that stays would be 300, one delta in every cycle from the 20th on 70

CONCEPTS = dict(concepts="a cigarette -> a lollipop", keep="a pencil")
SHORT = dict(steps=2, trajectories=1, batch=1)


@pytest.fixture
def kept_alive(comfy_host):
    """kept_alive(make) -> which of the objects that `make` returns by name are still there when nobody has them."""
    import comfy.model_management

    def check(make):
        alive = {name: weakref.ref(thing) for name, thing in make().items()}
        comfy.model_management.unload_all_models()
        comfy.model_management.cleanup_models_gc()
        gc.collect()
        return [name for name, ref in alive.items() if ref() is not None]

    return check


def parts(model, clip, **more):
    return more | {"model": model, "clip": clip, "network": model.model, "encoder": clip.cond_stage_model}


def encode(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


@pytest.fixture
def short(trce_settings):
    return dict(mode="tuned", settings=trce_settings(tuning=SHORT, resolution=64))


@pytest.mark.parametrize("mode", ["closed form", "tuned"])
def test_erasing_keeps_nothing_alive(run, make_model, make_clip, sample, kept_alive, short, mode):
    def erase():
        model, clip = make_model(), make_clip()
        erased, delta, *_ = run("TRCEErase", model=model, clip=clip, **CONCEPTS, **short | dict(mode=mode))
        sample(erased, encode(clip, "a cigarette"), encode(clip, ""))
        return parts(model, clip, erased=erased, delta=delta, factor=delta.context_map.factors[0])

    assert not kept_alive(erase)


def test_applying_and_exporting_keep_nothing_alive(run, make_model, make_clip, sample, kept_alive):
    def apply():
        model, clip = make_model(), make_clip()
        _, delta, *_ = run("TRCEErase", model=model, clip=clip, **CONCEPTS)
        (applied,) = run("TRCEApplyDelta", model=model, delta=delta, clip=clip)
        lora, _ = run("TRCEDeltaToLoRA", model=applied, delta=delta)
        sample(applied, encode(clip, "a cigarette"), encode(clip, ""))
        return parts(model, clip, applied=applied, delta=delta, matrix=next(iter(lora.values())))

    assert not kept_alive(apply)


def test_a_failure_and_a_cancel_keep_nothing_alive(run, make_model, make_clip, kept_alive, monkeypatch, short):
    import comfy.model_management

    cancelled = comfy.model_management.InterruptProcessingException

    def interrupted(error, says, **inputs):
        model, clip = make_model(), make_clip()
        with pytest.raises(error, match=says):
            run("TRCEErase", model=model, clip=clip, **CONCEPTS | inputs)
        return parts(model, clip)

    assert not kept_alive(lambda: interrupted(ValueError, "'concepts' is empty", concepts=""))
    asked = []

    def cancel():
        asked.append(True)
        if len(asked) == 5:
            raise cancelled

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", cancel)
    assert not kept_alive(lambda: interrupted(cancelled, None, **short))
    assert len(asked) == 5


def test_models_are_released_to_comfyuis_memory_manager(run, make_model, make_clip, comfy_host, short):
    """What erasing and tuning load is in ComfyUI's list and nowhere else: unloading all of it leaves nothing loaded."""
    import comfy.model_management

    model, clip = make_model(), make_clip()
    run("TRCEErase", model=model, clip=clip, **CONCEPTS, **short)
    loaded = {id(entry.model.model) for entry in comfy.model_management.current_loaded_models}
    assert loaded <= {id(model.model), id(clip.cond_stage_model)}
    comfy.model_management.unload_all_models()
    assert not comfy.model_management.current_loaded_models


def test_memory_stays_flat(server):
    """Every cycle erases something else, draws with it and frees all models, as ComfyUI's button does."""
    erase = dict(model=["checkpoint", 0], clip=["checkpoint", 1], keep="a pencil")
    erase |= dict(settings=["settings", 0])
    draw = dict(model=["apply", 0], positive=["text", 0], negative=["text", 0], latent_image=["latent", 0], seed=7)
    draw |= dict(steps=1, cfg=1.0, sampler_name="euler", scheduler="normal", denoise=1.0)
    nodes = {
        "checkpoint": ("CheckpointLoaderSimple", dict(ckpt_name="trce_demo_sd15.safetensors")),
        "settings": ("TRCESettings", {"closed_form": "custom", "closed_form.templates": False}),
        "erase": ("TRCEErase", erase),
        "apply": ("TRCEApplyDelta", dict(model=["checkpoint", 0], delta=["erase", 1], strength=1.0)),
        "text": ("CLIPTextEncode", dict(clip=["checkpoint", 1], text="a cigarette")),
        "latent": ("EmptyLatentImage", dict(width=64, height=64, batch_size=1)),
        "draw": ("KSampler", draw),
        "decode": ("VAEDecode", dict(samples=["draw", 0], vae=["checkpoint", 2])),
        "show": ("PreviewImage", dict(images=["decode", 0])),
    }
    prompt = {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}
    process, resident = psutil.Process(server.process.pid), []
    for cycle in range(CYCLES):
        prompt["erase"]["inputs"]["concepts"] = f"a cigarette of kind {cycle} -> a lollipop"
        server.queue(prompt)
        server.request("/free", {"unload_models": True, "free_memory": True})
        resident.append(process.memory_info().rss / 2**20)
    print("\nMiB after every fifth cycle:", *(round(size) for size in resident[4::5]))
    settled, last = resident[CYCLES // 2 - 5 : CYCLES // 2], resident[-5:]
    assert max(last) - max(settled) < SLACK
