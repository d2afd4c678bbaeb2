"""What an erasure cannot reach is a line in the report on the node and in the log."""

import logging
import runpy
from pathlib import Path

import pytest
import torch

TINY = runpy.run_path(str(Path(__file__).with_name("networks.py")))
pytestmark = pytest.mark.usefixtures("few_captions")
ERASE = dict(concepts="a gun -> an umbrella", keep="a dog")


@pytest.fixture
def report(run, caplog):
    """report(node, ...) -> the report; every line of it that names a limit is in the log too."""

    def build(model, clip, **inputs):
        with caplog.at_level(logging.WARNING):
            text = run("TRCEErase", model=model, clip=clip, **ERASE | inputs)[2]
        for line in text.splitlines():
            assert not line.startswith("Not reached") or line in caplog.text
        return text

    return build


def bypassed(comfy_host, model, clip):
    """MODEL and CLIP with a LoRA by the stock node for bypass mode."""
    import comfy.sd

    noise = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in model.model.state_dict().items()}
    name = next(n for n in shapes if n.endswith("attn2.to_k.weight"))
    n_out, n_in = shapes[name]
    module = name.removesuffix(".weight")
    lora = {
        f"{module}.lora_up.weight": torch.randn(n_out, 2, generator=noise),
        f"{module}.lora_down.weight": torch.randn(2, n_in, generator=noise),
    }
    return comfy.sd.load_bypass_lora_for_models(model, clip, lora, 1.0, 1.0)


def test_the_negative_prompt_is_looked_at_wherever_it_comes_from(pack):
    """In API format: through a node for both prompts, through two nodes in a row, and from a text node."""

    def texts(**nodes):
        return pack.host.workflow.negative_texts({name: {"inputs": inputs} for name, inputs in nodes.items()})

    encoders = {
        "good": {"text": "a cigarette", "clip": ["loader", 1]},
        "bad": {"text": ["written", 0], "clip": ["loader", 1]},
        "written": {"value": "blurry, a gun"},
        "loader": {"ckpt_name": "a gun.safetensors"},
    }
    straight = texts(sampler={"positive": ["good", 0], "negative": ["bad", 0], "model": ["loader", 0]}, **encoders)
    assert straight == ["blurry, a gun"]
    both = {"positive": ["good", 0], "negative": ["zero", 0], "control_net": ["loader", 0]}
    chained = {"both": both, "zero": {"conditioning": ["bad", 0], "strength": 0.5}}
    assert texts(sampler={"positive": ["both", 0], "negative": ["both", 1]}, **chained, **encoders) == straight
    assert not texts(sampler={"positive": ["good", 0], "negative": ["gone", 0]}, **encoders)
    circle = {"a": {"text": ["b", 0]}, "b": {"text": ["a", 0]}, "sampler": {"negative": ["a", 0]}}
    assert not texts(**circle) and not pack.host.workflow.negative_texts(None)


def test_a_concept_in_the_negative_prompt_is_named(pack, run, make_model, make_clip, few_captions):
    model, clip = make_model(), make_clip()
    _, delta, report, _ = run(
        "TRCEErase", model=model, clip=clip, concepts="a gun -> an umbrella\nred -> blue", keep="a dog"
    )
    assert "negative prompt" not in report
    graph = {"1": {"inputs": {"negative": ["2", 0]}}, "2": {"inputs": {"text": "lowres, guns, watermark"}}}
    lines = pack.host.limits.limits(model, delta, clip, graph=graph)
    assert [line for line in lines if "negative prompt" in line and "names what is erased: a gun. Take it out" in line]


def test_a_lora_in_bypass_mode_is_named(comfy_host, report, make_model, make_clip):
    model, clip = make_model(), make_clip()
    assert "bypass" not in report(model, clip)
    patched, _ = bypassed(comfy_host, model, clip)
    assert "bypass mode" in report(patched, clip)


def test_a_lora_in_bypass_mode_is_never_taken_for_another(comfy_host, pack, make_model, make_clip):
    model, clip = make_model(), make_clip()
    fingerprint = pack.host.fingerprint.model_fingerprint
    prints = [fingerprint(model)]
    for _ in range(5):  # each gone before the next comes, which may then lie in the same memory
        patched, _ = bypassed(comfy_host, model, clip)
        prints.append(fingerprint(patched))
        assert fingerprint(patched.clone()) == prints[-1]
        del patched
    assert len(set(prints)) == 6


def test_applying_says_the_same_on_its_node(comfy_host, pack, run, make_model, make_clip, listen):
    shown = []
    listen(lambda node_id, text: shown.append(text))
    model, clip = make_model(), make_clip()
    _, delta, *_ = run("TRCEErase", model=model, clip=clip, **ERASE)
    run("TRCEApplyDelta", model=model, delta=delta, strength=1.0)
    assert shown[-1] == ""
    patched, _ = bypassed(comfy_host, model, clip)
    run("TRCEApplyDelta", model=patched, delta=delta, strength=1.0)
    assert "bypass mode" in shown[-1]


def test_a_map_that_saving_cannot_hold_is_named(pack, make_model, make_clip, report):
    options = TINY["MMDIT"] | dict(adm_in_channels=80)
    options["context_embedder_config"] = dict(target="torch.nn.Linear", params=dict(in_features=4096, out_features=128))
    text = report(make_model(config="SD3", options=options), make_clip(kind="sd3", width=4096))
    assert "Save Model, merges and LoRAs cannot hold it" in text
    assert "Save Model" not in report(make_model(), make_clip())


def test_another_precision_of_the_encoder_is_named(run, make_model, make_clip):
    model, clip = make_model(), make_clip()
    _, delta, *_ = run("TRCEErase", model=model, clip=clip, **ERASE)
    other = make_clip(dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="another precision than bfloat16"):
        run("TRCEApplyDelta", model=model, delta=delta, clip=other, strength=1.0)


def test_what_the_target_names_is_said(report, make_model, make_clip):
    model, clip = make_model(), make_clip()
    assert "names it too" in report(model, clip, concepts="a gun -> no gun")
    assert "names it too" not in report(model, clip)


def test_an_object_in_the_place_of_a_reader_is_refused_and_no_other_model_suffers(run, make_model, make_clip):
    """While a model with another node's object is loaded, the same model without it is still read as it was."""
    import comfy.model_management

    class Around(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    model, clip = make_model(), make_clip()
    wrapped = model.clone()
    for name, module in model.model.named_modules():
        if name.endswith("attn2.to_k"):
            wrapped.add_object_patch(name, Around(module))
    before = run("TRCEErase", model=model, clip=clip, **ERASE)[1]
    with pytest.raises(ValueError, match="an object of its own in the place of .*attn2.to_k"):
        run("TRCEErase", model=wrapped, clip=clip, **ERASE)
    try:
        comfy.model_management.load_models_gpu([wrapped])
        after = run("TRCEErase", model=model, clip=clip, **ERASE)[1]
        for one, other in zip(before.context_map.factors, after.context_map.factors):
            assert torch.equal(one, other)
    finally:
        comfy.model_management.unload_all_models()


def test_a_reader_packed_by_another_loader_is_refused(run, make_model, make_clip):
    class Packed(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.qweight = torch.nn.Parameter(inner.weight.data.to(torch.int8), requires_grad=False)

    model = make_model()
    blocks = [m for m in model.model.diffusion_model.modules() if hasattr(m, "attn2")]
    blocks[0].attn2.to_k = Packed(blocks[0].attn2.to_k)
    with pytest.raises(ValueError, match="attn2.to_k as a Packed without a weight"):
        run("TRCEErase", model=model, clip=make_clip(), **ERASE)


def test_a_method_of_a_reader_that_another_node_replaces_is_refused(run, make_model, make_clip):
    model = make_model()
    name = next(name for name, _ in model.model.named_modules() if name.endswith("attn2.to_k"))
    model.add_object_patch(f"{name}.forward", lambda x: x)
    with pytest.raises(ValueError, match="an object of its own in the place of .*attn2.to_k"):
        run("TRCEErase", model=model, clip=make_clip(), **ERASE)


def test_escapes_that_prompts_do_not_know_are_named(report, make_model, make_clip):
    model, clip = make_model(), make_clip()
    assert "'[' plain text" in report(model, clip, concepts=r"saber \[fate\]")
    assert "plain text" not in report(model, clip, concepts=r"saber \(fate\)")


def test_functions_of_other_nodes_on_weights_and_text_are_named(report, make_model, make_clip):
    model, clip = make_model(), make_clip()
    key = next(key for key in model.model.state_dict() if key.endswith("attn2.to_k.weight"))
    wrapped = model.clone()
    wrapped.add_weight_wrapper(key, lambda weight: weight)
    assert "add_weight_wrapper" in report(wrapped, clip) and "add_weight_wrapper" not in report(model, clip)
    patched = model.clone()
    patched.set_model_attn2_patch(lambda q, k, v, options: (q, k, v))
    assert "attn2_patch" in report(patched, clip) and "attn2_patch" not in report(model, clip)
    ways = {
        "attn2_output_patch": model.clone(),
        "in the place of cross-attention": model.clone(),
        "double_block": model.clone(),
    }
    ways["attn2_output_patch"].set_model_attn2_output_patch(lambda n, options: n)
    ways["in the place of cross-attention"].set_model_attn2_replace(lambda q, k, v, options: v, "middle", 0)
    ways["double_block"].set_model_double_block_patch(lambda given: given)
    for name, changed in ways.items():
        assert name in report(changed, clip) and name not in report(model, clip)


def test_an_empty_keep_list_is_pointed_out(report, make_model, make_clip):
    model, clip = make_model(), make_clip()
    assert "'keep' is empty" in report(model, clip, keep="# nothing")
    assert "'keep' is empty" not in report(model, clip)


def test_a_lora_that_the_clips_hooks_put_on_the_model_is_named(report, make_model, make_clip):
    import comfy.hooks
    import comfy_extras.nodes_hooks as stock

    model, clip = make_model(), make_clip()
    key = next(key for key in model.model.state_dict() if key.endswith("attn2.to_k.weight"))
    lora = {key.replace(".weight", ".diff"): torch.ones_like(model.model.state_dict()[key])}
    for strength in (1.0, 0.0):
        hooks = comfy.hooks.create_hook_lora(lora=lora, strength_model=strength, strength_clip=0.0)
        hooked = stock.SetClipHooks().apply_hooks(clip, False, True, hooks)[0]
        assert ("the CLIP's hooks" in report(model, hooked)) == bool(strength)
    assert "the CLIP's hooks" not in report(model, clip)


def test_a_function_on_the_encoders_weights_makes_it_another(pack, report, make_model, make_clip):
    model, clip = make_model(), make_clip()
    wrapped = clip.clone()
    key = next(key for key in clip.patcher.model.state_dict() if key.endswith("fc1.weight"))
    wrapped.patcher.add_weight_wrapper(key, lambda weight: 1.5 * weight)
    prints = [pack.host.fingerprint.encoder_fingerprint(c) for c in (clip, wrapped, wrapped.clone())]
    assert prints[0] != prints[1] == prints[2]
    assert "cannot be checked" in report(model, wrapped) and "cannot be checked" not in report(model, clip)


def test_integers_that_nothing_unpacks_are_refused(run, make_model, make_clip):
    model = make_model()
    for name, module in model.model.diffusion_model.named_modules():
        if name.endswith("attn2.to_v"):
            module.weight = torch.nn.Parameter(module.weight.data.round().to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="attn2.to_v as torch.int8 in a format"):
        run("TRCEErase", model=model, clip=make_clip(), **ERASE)


def test_the_norm_is_that_of_a_merge_and_not_what_is_loaded(pack, comfy_host, make_model, make_clip):
    """The gains of a merge, also while another state of the same model is loaded."""
    import comfy.model_management
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    options = runpy.run_path(str(Path(__file__).with_name("test_sequence_encoders.py")))["ZIMAGE"]
    one, two = (make_model(seed=seed, config="ZImage", options=options) for seed in (0, 1))
    merged = ModelMergeSimple().merge(one, two, 0.5)[0]

    def gain(model):
        return pack.host.readers.find_text_readers(model).streams["context"].norm.gains[0]

    first, second = gain(one), gain(two)
    torch.testing.assert_close(gain(merged), (first + second) / 2, rtol=0, atol=1e-2)
    try:
        comfy.model_management.load_models_gpu([merged])
        assert torch.equal(gain(one), first)
    finally:
        comfy.model_management.unload_all_models()


# What other nodes put around a model


def test_objects_of_other_nodes_on_the_encoder_make_it_another(pack, report, make_model, make_clip):
    model, clip = make_model(), make_clip()
    patched = clip.clone()
    norm = torch.nn.LayerNorm(32)
    patched.patcher.add_object_patch("clip_l.transformer.text_model.final_layer_norm", norm)
    prints = [pack.host.fingerprint.encoder_fingerprint(c) for c in (clip, patched, patched.clone())]
    assert prints[0] != prints[1] == prints[2]
    assert "cannot be checked" in report(model, patched)


def test_objects_of_other_nodes_on_the_model_are_tuned_anew(pack, make_model):
    model = make_model()
    patched = model.clone()
    patched.add_object_patch("diffusion_model.out.2", torch.nn.Identity())
    prints = [pack.host.fingerprint.model_fingerprint(m) for m in (model, patched, patched.clone(), model.clone())]
    assert prints[0] == prints[3] != prints[1] == prints[2]


def ways(model):
    """(what is said of it, a clone of MODEL with something of another node around it)."""
    from comfy.patcher_extension import WrappersMP

    block = "diffusion_model.middle_block.1.transformer_blocks.0"
    clones = [model.clone() for _ in range(5)]
    clones[0].add_object_patch(f"{block}.attn2.forward", lambda *a, **k: None)
    clones[1].add_object_patch("diffusion_model.forward", lambda *a, **k: None)
    clones[2].set_model_unet_function_wrapper(lambda apply, given: apply(given["input"], given["timestep"]))
    clones[3].add_wrapper(WrappersMP.DIFFUSION_MODEL, lambda executor, *a, **k: executor(*a, **k))
    clones[4].add_wrapper(WrappersMP.APPLY_MODEL, lambda executor, *a, **k: executor(*a, **k))
    said = (f"{block}.attn2.forward", "diffusion_model.forward", "model_function_wrapper", "diffusion_model", "apply_")
    return zip(said, clones)


def test_other_ways_to_run_the_model_are_named(report, make_model, make_clip):
    model, clip = make_model(), make_clip()
    assert "Not checked" not in report(model, clip)
    for said, changed in ways(model):
        (line,) = (line for line in report(changed, clip).splitlines() if "Not checked" in line)
        assert said in line
    layer = model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn2.to_k
    handle = layer.register_forward_hook(lambda *_: None)
    assert "a hook on layers that read the text" in report(model, clip)
    handle.remove()
    layer.forward = lambda x: x
    assert "a hook on layers that read the text" in report(model, clip)


def named(pack, model):
    """What is said of other nodes on MODEL."""
    return pack.host.others.ways_of_others(model, pack.host.readers.find_text_readers(model))


def test_hooks_on_whatever_is_around_a_layer_that_reads_text_are_named(pack, make_model):
    model = make_model()
    block = "diffusion_model.middle_block.1.transformer_blocks.0"
    assert named(pack, model) == []
    for place in ("", "diffusion_model", "diffusion_model.middle_block", block, f"{block}.attn2"):
        module = model.model.get_submodule(place)
        for put in ("register_forward_hook", "register_forward_pre_hook"):
            handle = getattr(module, put)(lambda *_: None)
            assert named(pack, model) == [f"a hook on {place or 'the model'}"]
            handle.remove()
        own, module.forward = module.forward, lambda *a, **k: None
        assert named(pack, model) == [f"a hook on {place or 'the model'}"]
        module.forward = own  # as ComfyUI leaves it behind after a LoRA in bypass mode
        assert named(pack, model) == []
    model.model.get_submodule(f"{block}.attn1").register_forward_hook(lambda *_: None)
    assert named(pack, model) == []


def test_every_kind_of_wrapper_and_callback_of_other_nodes_is_named(pack, make_model):
    from comfy.patcher_extension import CallbacksMP, WrappersMP, add_callback, add_wrapper

    kinds = [value for name, value in vars(WrappersMP).items() if name.isupper()]
    for kind in kinds:
        one, other = make_model(), make_model()
        one.add_wrapper(kind, lambda executor, *a, **k: executor(*a, **k))
        one.add_wrapper_with_key(pack.host.apply.WRAPPER, "mine", print)
        add_wrapper(kind, lambda executor, *a, **k: executor(*a, **k), other.model_options["transformer_options"])
        assert named(pack, one) == named(pack, other) == [f"a wrapper of {kind}"]
    for kind in (CallbacksMP.ON_LOAD, CallbacksMP.ON_PRE_RUN, CallbacksMP.ON_APPLY_HOOKS):
        one, other = make_model(), make_model()
        one.add_callback(kind, lambda *a: None)
        add_callback(kind, lambda *a: None, other.model_options["transformer_options"])
        assert named(pack, one) == named(pack, other) == [f"a callback of {kind}"]
    model = make_model()
    model.set_model_sampler_calc_cond_batch_function(lambda args: None)
    model.add_object_patch("apply_model", lambda *a, **k: None)
    assert named(pack, model) == ["apply_model", "sampler_calc_cond_batch_function"]


def test_what_stock_nodes_put_on_a_model_is_not_named(pack, comfy_host, make_model):
    from comfy_extras import nodes_easycache, nodes_model_advanced, nodes_slg

    model = make_model()
    model = nodes_easycache.EasyCacheNode.execute(model, 0.2, 0.15, 0.95, False).args[0]
    model = nodes_easycache.LazyCacheNode.execute(model, 0.2, 0.15, 0.95, False).args[0]
    model = nodes_slg.SkipLayerGuidanceDiTSimple.execute(model, 0.0, 1.0, "0").args[0]
    (model,) = nodes_model_advanced.ModelSamplingDiscrete().patch(model, "v_prediction", False)
    assert model.wrappers and named(pack, model) == []


def test_hooks_on_the_encoder_make_it_another(pack, comfy_host, report, make_model, make_clip):
    model, clip = make_model(), make_clip()
    prints = [pack.host.fingerprint.encoder_fingerprint(clip)]
    layer = clip.cond_stage_model.clip_l.transformer.text_model.encoder.layers[1].mlp.fc1
    for put in (layer.register_forward_hook, layer.register_forward_pre_hook):
        for _ in range(2):
            handle = put(lambda *_: None)
            prints.append(pack.host.fingerprint.encoder_fingerprint(clip))
            assert pack.host.fingerprint.encoder_fingerprint(clip.clone()) == prints[-1]
            handle.remove()
    own = layer.forward
    layer.forward = lambda x: own(2 * x)
    prints.append(pack.host.fingerprint.encoder_fingerprint(clip))
    assert len({*prints}) == 6
    assert "cannot be checked" in report(model, clip)
    layer.forward = own
    assert pack.host.fingerprint.encoder_fingerprint(clip) == prints[0]


def test_full_width_letters_that_the_encoder_reads_as_another_text_are_named(pack, run, make_model, make_clip):
    model, concepts = make_model(), "ＧＵＮ -> 傘"
    _, delta, *_ = run("TRCEErase", model=model, clip=make_clip(), **ERASE)
    for kind, differ in (("z-image", True), ("qwen-image", True), ("sd1", None)):
        clip = make_clip(kind=kind)
        differ = clip.tokenize("ＧＵＮ") != clip.tokenize("GUN") if differ is None else differ
        lines = pack.host.limits.limits(model, delta, clip, concepts)
        assert any("'ＧＵＮ' was read as 'GUN'" in line for line in lines) == differ
        assert not any("full-width" in line for line in pack.host.limits.limits(model, delta, clip, "GUN -> 傘"))


def attention(model):
    return model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn2


def test_a_layer_that_is_held_in_another_way_is_refused_and_not_passed_by(run, make_model, make_clip):
    for wrap in (torch.nn.Sequential, lambda linear: torch.nn.ModuleDict({"base_layer": linear})):
        model = make_model()
        attention(model).to_k = wrap(attention(model).to_k)
        with pytest.raises(ValueError, match=r"attn2\.to_k"):
            run("TRCEErase", model=model, clip=make_clip(), **ERASE)
    model = make_model()
    del attention(model).to_k, attention(model).to_v
    attention(model).kv = torch.nn.Linear(32, 64)
    with pytest.raises(ValueError, match=r"attn2\.to_k of its own"):
        run("TRCEErase", model=model, clip=make_clip(), **ERASE)


@pytest.mark.parametrize("shape", [(1, 32), (32, 4), (32,)])
@pytest.mark.parametrize("name", ["input_scale", "absmax", "smooth_factor"])
def test_scales_that_are_not_of_whole_rows_are_refused(run, make_model, make_clip, name, shape):
    """Every layer is 32 wide here, so a vector may be of rows or of columns."""
    model = make_model()
    attention(model).to_v = torch.nn.Linear(32, 32, bias=False)
    attention(model).to_v.register_buffer(name, torch.ones(shape))
    with pytest.raises(ValueError, match=rf"attn2\.to_v as numbers that another node combines with '{name}'"):
        run("TRCEErase", model=model, clip=make_clip(), **ERASE)


def test_the_keep_list_is_in_the_report(report, make_model, make_clip):
    assert "Keep list: a dog | % a cat" in report(make_model(), make_clip(), keep="a dog\n% a cat")
