"""TRCE Erase with tuning, run in process as ComfyUI runs it, on a small SD1.x model."""

import sys
from dataclasses import replace

import pytest
import torch

CONCEPTS = "a gun -> an umbrella"
Q = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q"
K = Q.replace("to_q", "to_k")
TUNING = dict(projections="cross", steps=2, trajectories=1, batch=1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One for the module: tests that are not about training take what an earlier one has trained."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def small(pack, monkeypatch, cache, few_captions):
    """Fewer captions and trajectories."""
    module = pack.module.nodes.settings
    fewer = dict(draws=1, sampling_steps=3)
    fewer |= dict(empty_trajectories=1, empty_draws=2, empty_batch=1, keep_trajectories=3, keep_draws=1, keep_batch=1)
    for preset in ("QUICK", "PAPER_TUNING"):
        monkeypatch.setattr(module, preset, replace(getattr(module, preset), **fewer))
    monkeypatch.setattr(pack.host.folders.folder_paths, "get_system_user_directory", lambda _: str(cache))


@pytest.fixture
def texts(pack):
    return pack.ops.tuning.text_batch.Texts


@pytest.fixture
def denoiser(pack):
    return sys.modules[f"{pack.module.__name__}.nodes.host.denoiser"]


@pytest.fixture
def small_settings(trce_settings):
    """small_settings(steps=..., seed=..., ...) -> settings for two steps of tuning."""

    def build(resolution=64, seed=0, retrain=False, **knobs):
        others = dict(resolution=resolution, seed=seed, retrain=retrain)
        return trce_settings(closed_form=dict(templates=False), tuning={**TUNING, **knobs}, **others)

    return build


@pytest.fixture
def erase(run, make_clip, small_settings):
    def execute(model, mode="tuned", **knobs):
        inputs = dict(concepts=CONCEPTS, keep="a dog", mode=mode, settings=small_settings(**knobs))
        return run("TRCEErase", model=model, clip=make_clip(), **inputs)

    return execute


@pytest.fixture
def loaded(make_model):
    """loaded(...) -> a MODEL as a loader node makes it: in inference mode."""

    def build(**options):
        with torch.inference_mode():
            return make_model(**options)

    return build


@pytest.fixture
def prompts():
    return torch.randn(2, 1, 77, 32, generator=torch.Generator().manual_seed(7))


def bits(model):
    return {key: weight.clone() for key, weight in model.model.state_dict().items()}


def assert_untouched(model, before):
    import comfy.model_management

    assert not comfy.model_management.in_training
    comfy.model_management.unload_all_models()
    after = model.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.model.parameters())


def lora(model, key=f"{Q}.weight"):
    noise = torch.Generator().manual_seed(3)
    changed = model.clone()
    change = 0.3 * torch.randn(changed.model.state_dict()[key].shape, generator=noise)
    changed.add_patches({key: ("diff", (change,))}, 0.7)
    return changed


def test_a_tuned_model_draws_otherwise_than_stage_1_and_the_incoming_one_stays(erase, loaded, sample, prompts, pack):
    model = loaded()
    before, uuid = bits(model), model.patches_uuid
    erased, delta, report, losses = erase(model, retrain=True)
    stage1 = pack.host.apply.apply_delta(model, replace(delta, tuned={}), 1.0)
    assert not torch.equal(sample(erased, *prompts), sample(stage1, *prompts))
    assert len(delta.tuned) == 3 * sum(f"{module}.attn1.to_q.weight" in before for module in blocks(before))
    assert len(losses["loss"]) == 2
    assert all(isinstance(loss, float) for loss in losses["loss"])
    assert "Tuned" in report and "Evaluations of the model" in report
    assert delta.info.method == "trce"
    assert delta.info.settings["tune_steps"] == 2
    assert not model.patches
    assert model.patches_uuid == uuid
    assert_untouched(model, before)


def blocks(state):
    return sorted({key.split(".attn1.")[0] for key in state if ".attn1." in key})


def test_the_tuned_weight_is_w_t_plus_dw(erase, loaded, pack):
    model = loaded()
    _, delta, *_ = erase(model)
    D = delta.context_map.dense()
    for strength in (1.0, 0.5):
        erased = pack.host.apply.apply_delta(model, delta, strength)
        for module, map_ in ((K, D), (Q, None)):
            W = model.model.state_dict()[f"{module}.weight"]
            expected = W + strength * delta.tuned[module].dense() + (0 if map_ is None else strength * W @ map_)
            patched = erased.patch_weight_to_device(f"{module}.weight", return_weight=True)
            torch.testing.assert_close(patched, expected, rtol=0, atol=1e-5)


def test_the_model_in_training_is_the_one_that_samples_afterwards(erase, loaded, pack, denoiser, prompts, texts):
    """What stage 2 computes with overrides against ComfyUI's own patched model, with a LoRA below both."""
    import comfy.model_management

    model = lora(loaded())
    erased, delta, *_ = erase(model)
    x, sigma = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5)), torch.tensor([3.0])
    readers = pack.host.readers.find_text_readers(model).keys
    with denoiser.tunable(model, 64).open() as denoise, torch.no_grad():
        weights = {key: denoise.weights[key] + denoise.weights[key] @ delta.context_map.dense() for key in readers}
        for module, change in delta.tuned.items():
            name = f"{module}.weight"
            weights[name] = weights.get(name, denoise.weights[name]) + change.dense()
        ours = denoise(x, sigma, texts(prompts[0]), weights)
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([erased])
        theirs = (x - erased.model.apply_model(x, sigma, c_crossattn=prompts[0])) / 3.0
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    comfy.model_management.unload_all_models()


def test_a_lora_below_is_where_the_tuning_starts(erase, loaded):
    """A MODEL with a LoRA gives what a MODEL with the same weights merged gives."""
    patched = lora(loaded())
    merged = loaded()
    key = f"{Q}.weight"
    with torch.inference_mode():
        merged.model.state_dict()[key].copy_(patched.patch_weight_to_device(key, return_weight=True))
    asked = dict(learning_rate=1e-3, words=0)  # words amplify rounding
    ours, theirs, plain = (erase(model, **asked)[1].tuned[Q].dense() for model in (patched, merged, loaded()))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert not torch.allclose(ours, plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_tuned_in_float32(erase, loaded, dtype):
    model = loaded(dtype=dtype)
    before = bits(model)
    _, delta, *_ = erase(model, retrain=True)
    assert all(factor.dtype == torch.float32 for change in delta.tuned.values() for factor in change.factors)
    assert delta.info.measured["tuned_change"] > 0
    assert_untouched(model, before)


def test_offloaded_weights_are_tuned_all_the_same(erase, loaded):
    """As under --lowvram: the MODEL is loaded with its weights, and a LoRA for them, waiting elsewhere."""
    whole = erase(lora(loaded()), words=0)[1]  # words amplify rounding
    model = lora(loaded())
    before = bits(model)
    model.patch_model(torch.device("cpu"), lowvram_model_memory=1)
    assert model.model.lowvram_patch_counter
    offloaded = erase(model, retrain=True, words=0)[1]
    expected = whole.tuned[Q].dense()
    slack = 1e-3 * expected.abs().max().item()
    torch.testing.assert_close(offloaded.tuned[Q].dense(), expected, rtol=0, atol=slack)
    model.unpatch_model(torch.device("cpu"))
    assert_untouched(model, before)


def test_eps_and_v_prediction_are_the_same_thing_here(loaded, denoiser, prompts, texts):
    import comfy.model_sampling

    class VPrediction(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
        pass

    eps = loaded()
    v = eps.clone()
    v.add_object_patch("model_sampling", VPrediction(eps.model.model_config))
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    sigma = torch.tensor([3.0, 0.5])
    found, out = {}, {}
    for name, model in (("eps", eps), ("v", v)):
        with denoiser.tunable(model, 64).open() as denoise, torch.no_grad():
            found[name] = denoise(x, sigma, texts(prompts[0].expand(2, -1, -1)), {})
            scale = (sigma**2 + 1).view(-1, 1, 1, 1).sqrt()
            t = denoise.sampling.timestep(sigma).float()
            out[name] = model.model.diffusion_model(x / scale, t, context=prompts[0].expand(2, -1, -1))
    s = sigma.view(-1, 1, 1, 1)
    torch.testing.assert_close(found["eps"], out["eps"], rtol=0, atol=1e-5)
    # From v = eps sqrt(1 / (s^2 + 1)) - x0 s / sqrt(s^2 + 1) and x = x0 + s eps.
    x0 = x / (s**2 + 1) - out["v"] * s / (s**2 + 1).sqrt()
    torch.testing.assert_close(found["v"], (x - x0) / s, rtol=0, atol=1e-5)
    assert denoiser.tunable(eps, 64).fingerprint != denoiser.tunable(v, 64).fingerprint


def test_v_prediction_models_are_tuned(erase, loaded):
    import comfy.model_sampling

    class VPrediction(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
        pass

    model = loaded()
    model.add_object_patch("model_sampling", VPrediction(model.model.model_config))
    assert erase(model, retrain=True)[1].tuned


@pytest.mark.parametrize("phase", ["Prompts", "Trajectories, unwanted", "Trajectories, kept", "Tuning, position"])
def test_cancel_leaves_the_model_bit_identical_and_no_file(erase, loaded, pack, monkeypatch, cache, phase, listen):
    import comfy.model_management as mm

    model = lora(loaded())
    before = bits(model)

    def interrupt(node_id, text):
        if text.startswith(phase):
            mm.interrupt_current_processing()

    listen(interrupt)
    files = sorted(cache.rglob("tuned_*"))  # what stage 1 has computed may be kept
    with pytest.raises(mm.InterruptProcessingException):
        erase(model, seed=99)
    assert_untouched(model, before)
    assert sorted(cache.rglob("tuned_*")) == files
    assert not list(cache.rglob("*.part"))


def test_the_same_workflow_tomorrow_does_not_train_again(erase, loaded, denoiser, monkeypatch):
    opened = []
    weights = denoiser.Weights
    monkeypatch.setattr(denoiser, "Weights", lambda *args: opened.append(1) or weights(*args))
    first = erase(loaded(), retrain=True)
    again = erase(loaded())  # as after a restart: other objects with the same content
    assert len(opened) == 1
    assert torch.equal(first[1].tuned[Q].dense(), again[1].tuned[Q].dense())
    assert again[3] == first[3]
    assert "cache" in again[2]
    erase(loaded(seed=4))
    erase(loaded(), seed=1)
    assert len(opened) == 3


def test_the_modes(erase, loaded, pack):
    import comfy_execution.graph_utils

    model = loaded()
    _, closed, report, losses = erase(model, mode="closed form")
    assert not closed.tuned and closed.info.method == "trce-closed-form"
    assert "Tuned" not in report
    _, zero, _, none = erase(model, steps=0)
    assert not zero.tuned and zero.info == closed.info
    for nothing_to_plot in (losses, none, erase(model, steps=1)[3]):
        assert isinstance(nothing_to_plot, comfy_execution.graph_utils.ExecutionBlocker)


def test_before_tuning_the_closed_form_is_milder(run, loaded, make_clip, trce_settings):
    inputs = dict(model=loaded(), clip=make_clip(), concepts=CONCEPTS, settings=trce_settings(tuning=dict(steps=0)))
    found = [run("TRCEErase", mode=mode, **inputs)[1].info.settings["preserve"] for mode in ("closed form", "tuned")]
    assert found == [15.0, 50.0]


def test_the_presets_are_the_ones_of_trce_ops(pack, run, trce_settings, monkeypatch):
    monkeypatch.undo()  # of fewer points
    ops = pack.module.trce_ops
    tuning = ops.tuning.settings
    default = trce_settings()
    assert (default.closed_form, default.tuning, default.seed) == (None, None, 0)  # None: what the mode does
    assert (default.resolution, default.retrain) == (0, False)
    (paper,) = run("TRCESettings", closed_form={"closed_form": "paper"}, tuning={"tuning": "paper"}, seed=5)
    assert (paper.closed_form, paper.tuning, paper.seed) == (ops.methods.trce.PAPER, tuning.PAPER, 5)


def test_robust_tunes_whole_blocks_and_a_lora_holds_them(run, loaded, make_clip, erase, sample):
    model, clip = loaded(), make_clip()
    erased, delta, *_ = erase(model, mode="robust", projections="blocks", early=1.0, unconditional=0.5)
    ends = {module.rpartition("transformer_blocks.0.")[2] for module in delta.tuned}
    assert ends >= {"attn1.to_q", "attn1.to_out.0", "attn2.to_k", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"}
    lora = run("TRCEDeltaToLoRA", model=model, delta=delta)[0]
    import comfy.sd

    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    with torch.inference_mode():
        text = clip.encode_from_tokens(clip.tokenize("a dog"))
    one, other, before = (sample(m, text, text) for m in (erased, patched, model))
    assert (one - other).abs().max() < 0.05 * (one - before).abs().max()


def test_a_mode_has_its_own_tuning_unless_it_is_chosen(pack, make_model, trce_settings):
    tuning, chosen = pack.module.trce_ops.tuning.settings, pack.module.nodes.erase.chosen
    model, given = make_model(), dict(seed=3, resolution=64)

    def of(mode, **knobs):
        return chosen(model, mode, trce_settings(**given, **knobs)).tuning

    assert of("closed form") is None
    assert of("tuned") == replace(tuning.QUICK, **given) and of("robust") == replace(tuning.ROBUST, **given)
    # without the metric tuning needs other values for the same effect
    alike = dict(closed_form=dict(metric=False))
    assert of("tuned", **alike) == replace(tuning.WITHOUT_METRIC, **given)
    assert of("robust", **alike) == replace(tuning.ROBUST, metric=False, **given)
    for mode in ("tuned", "robust"):
        assert of(mode, tuning=dict(steps=7)).steps == 7
    assert chosen(model, "robust", trce_settings(**given)).closed_form.preserve == 50


@pytest.mark.parametrize("choice", ["custom", "custom, robust"])
def test_a_custom_tuning_knob_changes_its_field_alone(pack, run, choice):
    """All of the other fields stay at what the choice shows, and every knob arrives at the field of its name."""
    tuning = pack.ops.tuning.settings
    shown = {"custom": tuning.QUICK, "custom, robust": tuning.ROBUST}[choice]
    for knob in pack.module.nodes.setting_widgets.tuning_widgets(shown):
        changed = {knob.id: other_value(knob)}
        assert knob.default == getattr(shown, knob.id)
        assert run("TRCESettings", tuning={"tuning": choice, **changed})[0].tuning == replace(shown, **changed)


@pytest.mark.parametrize("choice", ["custom", "custom, tuned"])
def test_a_custom_knob_of_the_closed_form_changes_its_field_alone(pack, run, choice):
    shown = {"custom": pack.ops.closed_form.erase.EraseSettings(), "custom, tuned": pack.ops.methods.trce.MILD}[choice]
    for knob in pack.module.nodes.setting_widgets.closed_form_widgets(shown):
        value = other_value(knob)
        wanted = {knob.id: value}
        if knob.id.startswith("weight_"):
            wanted = {"weights": replace(shown.weights, **{knob.id.removeprefix("weight_"): value})}
        given = {"closed_form": choice, knob.id: value}
        assert run("TRCESettings", closed_form=given)[0].closed_form == replace(shown, **wanted)


def other_value(knob):
    if isinstance(knob.default, bool):
        return not knob.default
    if isinstance(knob.default, str):
        return next(option for option in knob.options if option != knob.default)
    return knob.default + 1 if knob.default + 1 <= knob.max else knob.default / 2


def test_the_mode_alone_decides_whether_it_tunes(pack, run, loaded, make_clip, trce_settings):
    inputs = dict(model=loaded(), clip=make_clip(), concepts=CONCEPTS, keep="a dog")
    none = run("TRCEErase", **inputs)[1]
    unused = run("TRCEErase", **inputs, settings=trce_settings(tuning=dict(steps=7), resolution=64))[1]
    assert not none.tuned and none.info == unused.info
    assert torch.equal(none.context_map.dense(), unused.context_map.dense())


def test_settings_of_another_kind_are_refused(pack, run, loaded, make_clip):
    for wrong in ("custom", {"tuning": "custom"}, run("TRCEMethodSettings", method={"method": "uce"})[0]):
        with pytest.raises(pack.host.errors.HostError, match="'settings' holds a .*; connect the node TRCE Settings"):
            run("TRCEErase", model=loaded(), clip=make_clip(), concepts=CONCEPTS, keep="", settings=wrong)


def test_the_resolution_is_what_the_family_draws(pack, loaded, denoiser):
    import comfy.model_sampling

    class VPrediction(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
        pass

    sd1, sd2 = loaded(), loaded(config="SD20", channels=64)
    assert [denoiser.drawn_resolution(model) for model in (sd1, sd2)] == [512, 512]
    for model, drawn in ((sd1, 512), (sd2, 768)):
        v = model.clone()
        v.add_object_patch("model_sampling", VPrediction(model.model.model_config))
        assert denoiser.drawn_resolution(v) == drawn


def test_the_resolution_asked_for_is_the_one_tuned_at(
    pack, run, loaded, make_clip, small_settings, denoiser, monkeypatch
):
    asked = []
    open_denoiser = denoiser.open_denoiser
    monkeypatch.setattr(pack.module.nodes.erase, "drawn_resolution", lambda model: 64)
    monkeypatch.setattr(denoiser, "open_denoiser", lambda model, size: asked.append(size) or open_denoiser(model, size))
    for resolution in (0, 96):
        settings = small_settings(resolution=resolution, retrain=True)
        inputs = dict(model=loaded(), clip=make_clip(), concepts=CONCEPTS, keep="", mode="tuned", settings=settings)
        run("TRCEErase", **inputs)
    assert asked == [64, 96]


def test_the_curve_is_shown_on_the_node(pack, loaded, make_clip, small_settings):
    import folder_paths

    node = pack.nodes["TRCEErase"].PREPARE_CLASS_CLONE(None)
    inputs = dict(concepts=CONCEPTS, keep="a dog", mode="tuned", settings=small_settings())
    with torch.inference_mode():
        output = node.EXECUTE_NORMALIZED(model=loaded(), clip=make_clip(), **inputs)
    (image,) = output.ui["images"]
    assert image["type"] == "temp"
    assert folder_paths.get_annotated_filepath(f"{image['filename']} [temp]")


@pytest.mark.parametrize("losses", [(0.5,), (0.5, 0.5, 0.5), (3.0, 1.0, 2.0)])
def test_any_curve_can_be_drawn(pack, losses):
    draw = sys.modules[f"{pack.module.__name__}.nodes.ui.curve"].draw_curves
    picture = draw({"loss": losses, "place": losses[::-1]})
    assert picture.shape[0] == 1 and picture.shape[3] == 3
    assert 0 <= picture.min() and picture.max() <= 1
    assert picture.min(3).values.lt(0.9).sum() > 500


def test_no_global_randomness_is_touched(erase, loaded):
    import random

    torch.manual_seed(3)
    random.seed(3)
    state, state_of_random = torch.get_rng_state(), random.getstate()
    erase(loaded(), retrain=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == state_of_random


def test_out_of_memory_halves_and_then_fails_with_a_sentence(erase, loaded, denoiser, monkeypatch, caplog):
    call, fits = denoiser.HostDenoiser.__call__, 1

    def tight(self, x, *args):
        if len(x) > fits:
            raise torch.OutOfMemoryError("too much")
        return call(self, x, *args)

    monkeypatch.setattr(denoiser.HostDenoiser, "__call__", tight)
    assert erase(loaded(), batch=2, trajectories=2, retrain=True)[1].tuned
    assert "continuing with 1 pictures at a time" in caplog.text
    fits = 0
    model = loaded()
    before = bits(model)
    with pytest.raises(RuntimeError, match="'resolution'"):
        erase(model, retrain=True)
    assert_untouched(model, before)


def test_weights_that_have_no_gradient_are_refused(erase, loaded):
    model = loaded()
    block = model.model.diffusion_model.middle_block[1].transformer_blocks[0]
    block.attn1.to_q.weight = torch.nn.Parameter(block.attn1.to_q.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="attn1.to_q.weight as torch.int8.*fp16"):
        erase(model)
    assert erase(model, mode="closed form")


def test_models_that_want_a_picture_are_refused(erase, loaded):
    model = loaded()
    model.model.concat_keys = ("mask",)
    with pytest.raises(ValueError, match="text-to-image model"):
        erase(model)


def test_a_tuned_delta_is_saved_loaded_and_applied(erase, run, loaded, pack, sample, prompts, tmp_path):
    model = loaded()
    erased, delta, *_ = erase(model)
    path = tmp_path / "delta.safetensors"
    pack.ops.delta.file.save_delta(delta, path)
    back = pack.ops.delta.file.load_delta(path)
    assert back.info == delta.info
    (applied,) = run("TRCEApplyDelta", model=model, delta=back)
    assert torch.equal(sample(applied, *prompts), sample(erased, *prompts))
    (zero,) = run("TRCEApplyDelta", model=model, delta=back, strength=0.0)
    assert not zero.patches


def test_a_tuned_delta_for_another_build_is_refused_before_anything_is_patched(loaded, pack, erase):
    model = loaded()
    _, delta, *_ = erase(model)
    change = delta.tuned[Q]
    wrong = {
        "an unknown module": {"diffusion_model.no.such.attn1.to_q": change},
        "another shape": {Q: replace(change, factors=(torch.zeros(3, 2), torch.zeros(2, 64)))},
        "no projection": {"diffusion_model.out.2": change},
    }
    for tuned in wrong.values():
        with pytest.raises(pack.host.errors.HostError, match="The delta tunes diffusion_model"):
            pack.host.apply.apply_delta(model, replace(delta, tuned=tuned), 1.0)
    assert not model.patches


@pytest.mark.parametrize(
    "device, pixels, graph, expected",
    [
        ("cpu", 64 * 64, 1e9, 1),
        ("cpu", 8 * 8, 1e9, 64),
        ("cuda", 64 * 64, 1e9, 5),  # half of the memory is left free
        ("cuda", 64 * 64, 1e8, 8),
        ("cuda", 64 * 64, 6e9, 1),
        ("cuda", 8 * 8, 1e9, 64),
    ],
)
def test_pictures_are_trained_on_together_where_there_is_memory(pack, monkeypatch, device, pixels, graph, expected):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda device: 10e9)
    assert pack.host.denoiser.pictures_at_once(torch.device(device), pixels, graph) == expected
