"""An erased MODEL among ComfyUI's other machinery: low precision, hooks, ControlNet, merging, saving."""

import json
from pathlib import Path

import pytest
import torch

WIDTH = 32
KEY = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture
def delta(pack):
    noise = torch.Generator().manual_seed(0)
    up, down = torch.randn(WIDTH, 4, generator=noise), torch.randn(4, WIDTH, generator=noise) / 4
    info = pack.ops.delta.file.DeltaInfo("sd1", "encoder", (pack.ops.text.concepts.ConceptPair("a gun"),))
    return pack.ops.delta.file.ErasedDelta(pack.ops.delta.low_rank.ContextMap((up, down)), info)


@pytest.fixture
def prompts():
    return torch.randn(2, 1, 77, WIDTH, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def denoise(comfy_host):
    """denoise(model, context, on_the_fly) -> one call of the model, its weights patched when loaded or when used."""
    noise = torch.Generator().manual_seed(5)
    x, sigma = torch.randn(1, 4, 8, 8, generator=noise), torch.tensor([3.0])

    @torch.no_grad()
    def draw(model, context, on_the_fly=False):
        model.patch_model(torch.device("cpu"), lowvram_model_memory=int(on_the_fly))
        try:
            with torch.inference_mode():
                return model.model.apply_model(x, sigma, c_crossattn=context)
        finally:
            model.unpatch_model(torch.device("cpu"))

    return draw


def error(patched, mapped, original):
    """Largest difference to the mapped conditioning, as a share of what the erasure changes."""
    change = (mapped - original).abs().max()
    assert change > 1e-2
    return ((patched - mapped).abs().max() / change).item()


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float16, 3e-3), (torch.bfloat16, 2e-2), (torch.float8_e4m3fn, 0.3)],
)
def test_the_edit_is_as_exact_as_the_weights_are(pack, make_model, delta, prompts, denoise, dtype, tolerance):
    """Loaded whole, W T is rounded to the weights' own type; patched on their way into float32 layers, it is not."""
    model = make_model(dtype=dtype)
    original, mapped = (denoise(model, c) for c in (prompts[0], delta.context_map.apply(prompts[0])))
    erased = pack.host.apply.apply_delta(model, delta, 1.0)
    assert error(denoise(erased, prompts[0]), mapped, original) < tolerance
    assert error(denoise(erased, prompts[0], on_the_fly=True), mapped, original) < 1e-5


@pytest.mark.parametrize(("on_the_fly", "tolerance"), [(False, 0.3), (True, 1e-5)])
def test_quantised_layers_are_edited_on_their_dequantised_weights(
    pack, make_model, delta, prompts, denoise, on_the_fly, tolerance
):
    """fp8 with a scale, as in scaled checkpoints: ComfyUI dequantises, and quantises again what it keeps loaded."""
    model = make_model()
    quantised(model.model)
    assert type(model.model.get_parameter(KEY).data).__name__ == "QuantizedTensor"
    original, mapped = (denoise(model, c, True) for c in (prompts[0], delta.context_map.apply(prompts[0])))
    erased = pack.host.apply.apply_delta(model, delta, 1.0)
    assert error(denoise(erased, prompts[0], on_the_fly), mapped, original) < tolerance


def test_a_lora_can_be_made_for_a_quantised_model(pack, run, make_model, delta):
    """Its change is to the dequantised weight, which is what Load LoRA changes too."""
    model = make_model()
    quantised(model.model)
    W = model.model.get_parameter(KEY).data.dequantize()
    lora, report = run("TRCEDeltaToLoRA", model=model, delta=delta)
    expected = W @ delta.context_map.dense()
    assert expected.norm() > 1
    assert (lora[KEY.replace(".weight", ".diff")] - expected).norm() < 1e-5 * expected.norm()
    assert "Error 0.00%" in report


def test_weights_for_diffusers_of_a_quantised_model_are_dequantised(
    run, make_model, delta, comfy_host, tmp_path, monkeypatch
):
    from safetensors.torch import load_file

    monkeypatch.setattr(comfy_host.folder_paths, "output_directory", str(tmp_path))
    model = make_model()
    quantised(model.model)
    W = model.model.get_parameter(KEY).data.dequantize()
    run("TRCESaveDiffusers", model=model, delta=delta, filename_prefix="unet")
    (path,) = tmp_path.iterdir()
    saved = load_file(path)["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"]
    assert torch.allclose(saved, W + W @ delta.context_map.dense(), atol=1e-5)


def quantised(base, layers=("attn2.to_k", "attn2.to_v")):
    """The same module with those layers as fp8 and a scale, loaded as ComfyUI loads them."""
    import comfy.ops

    operations = comfy.ops.mixed_precision_ops({}, torch.float32, full_precision_mm=True)
    for name, module in list(base.named_modules()):
        if name.endswith(layers):
            out, width = module.weight.shape
            bias = {} if module.bias is None else {"bias": module.bias}
            layer = operations.Linear(width, out, bias=bool(bias), device="cpu", dtype=torch.float32)
            scale = module.weight.abs().max() / 448
            config = json.dumps({"format": "float8_e4m3fn"}).encode()
            layer.load_state_dict(
                {
                    **bias,
                    "weight": (module.weight / scale).to(torch.float8_e4m3fn),
                    "weight_scale": scale.detach(),
                    "comfy_quant": torch.tensor(list(config), dtype=torch.uint8),
                }
            )
            base.set_submodule(name, layer)
    return base


def test_a_quantised_text_encoder_has_a_fingerprint(pack, make_model, make_clip):
    """As the fp8 T5 that most people load."""
    readers = pack.host.readers.find_text_readers(make_model())
    clips = [make_clip(seed=seed) for seed in (0, 0, 1)]
    for clip in clips:
        quantised(clip.cond_stage_model, ("mlp.fc1", "mlp.fc2"))
    with torch.inference_mode():
        first, again, other = (pack.host.encoders.text_fingerprint(clip, readers) for clip in clips)
    assert first == again != other


def lora():
    """A LoRA file on one projection that reads the text."""
    noise = torch.Generator().manual_seed(3)
    return {KEY.replace(".weight", ".diff"): 0.3 * torch.randn(64, WIDTH, generator=noise)}


def test_a_lora_that_comes_by_a_hook_goes_over_the_erasure(pack, make_model, delta, prompts, sample):
    import comfy.hooks
    import comfy.sd

    erased = pack.host.apply.apply_delta(make_model(), delta, 1.0)
    conds = [[[c, {}]] for c in prompts]
    hooked = erased.clone()
    hooks = comfy.hooks.create_hook_lora(lora(), 0.8, 0.0)
    with_hook = [comfy.hooks.set_hooks_for_conditioning(cond, hooks) for cond in conds]
    loaded, _ = comfy.sd.load_lora_for_models(erased, None, lora(), 0.8, 0.0)
    expected, plain = sample(loaded, *conds), sample(erased, *conds)
    assert error(sample(hooked, *with_hook), expected, plain) < 1e-4
    assert torch.equal(sample(hooked, *conds), plain)


def test_controlnet_gets_the_prompt_as_it_is(pack, make_model, delta, prompts, sample):
    """It holds weights of its own: the erasure does not reach them, and what they are given is not mapped."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    options = make_model().model.model_config.unet_config
    unknown = ("out_channels", "transformer_depth_output")
    options = {name: value for name, value in options.items() if name not in unknown}
    network = comfy.cldm.cldm.ControlNet(**options, hint_channels=3, operations=comfy.ops.manual_cast)
    noise = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.05 * torch.randn(weight.shape, generator=noise))
    before = {key: weight.clone() for key, weight in network.state_dict().items()}
    seen = []
    network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["context"].clone()), with_kwargs=True
    )
    net = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu")).set_cond_hint(
        torch.ones(1, 3, 64, 64), 1.0
    )
    conds = [[[c, {"control": net, "control_apply_to_uncond": True}]] for c in prompts]
    erased = pack.host.apply.apply_delta(make_model(), delta, 1.0)
    controlled = sample(erased, *conds)
    assert seen
    assert {tuple(c.flatten()[:8].tolist()) for context in seen for c in context} == {
        tuple(c.flatten()[:8].tolist()) for c in prompts
    }
    assert all(torch.equal(weight, before[key]) for key, weight in network.state_dict().items())
    assert (controlled - sample(erased, *prompts)).abs().max() > 1e-3


def test_ip_adapters_get_the_prompt_as_it_is(pack, make_model, delta, prompts, sample):
    """They hang into cross-attention and multiply the text, or a picture, with weights of their own."""
    model, seen = make_model(), []

    def watch(n, context, value, extra_options):
        seen.extend((context.clone(), value.clone()))
        return n, context, value

    erased = pack.host.apply.apply_delta(model, delta, 1.0)
    erased.set_model_attn2_patch(watch)
    sample(erased, *prompts)
    given = {c.flatten()[0].item() for c in prompts}
    assert {c.flatten()[0].item() for contexts in seen for c in contexts} == given


def merge(first, second, ratio):
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    return ModelMergeSimple().merge(first, second, ratio)[0]


def test_merging_mixes_the_erased_weights(pack, make_model, delta):
    model, other = make_model(), make_model(seed=9)
    W, V = (m.model.state_dict()[KEY].clone() for m in (model, other))
    erased = pack.host.apply.apply_delta(model, delta, 1.0)
    WT = W + W @ delta.context_map.dense()
    for merged, expected in (
        (merge(erased, other, 0.7), 0.7 * WT + 0.3 * V),
        (merge(other, erased, 0.7), 0.7 * V + 0.3 * WT),
    ):
        weight = merged.patch_weight_to_device(KEY, return_weight=True)
        assert torch.allclose(weight, expected, atol=1e-5)


def test_erasing_from_a_merged_model_erases_both(pack, make_model, delta, prompts, sample):
    merged = merge(make_model(), make_model(seed=9), 0.5)
    patched = sample(pack.host.apply.apply_delta(merged, delta, 1.0), *prompts)
    mapped = sample(merged, *delta.context_map.apply(prompts))
    assert error(patched, mapped, sample(merged, *prompts)) < 1e-4


def test_a_saved_checkpoint_is_the_patched_model(pack, make_model, make_clip, delta, comfy_host, prompts, sample):
    from comfy_extras.nodes_model_merging import CheckpointSave
    from safetensors.torch import load_file

    model = make_model()
    erased = pack.host.apply.apply_delta(model, delta, 0.8)
    drawn = sample(erased, *prompts)
    CheckpointSave().save(erased, make_clip(), None, "checkpoints/erased")
    (path,) = Path(comfy_host.folder_paths.get_output_directory()).rglob("erased_*.safetensors")
    prefix = "model.diffusion_model."
    saved = {name.removeprefix(prefix): W for name, W in load_file(path).items() if name.startswith(prefix)}
    path.unlink()
    plain = make_model()
    missing = plain.model.diffusion_model.load_state_dict(saved)
    assert not missing.missing_keys
    assert error(sample(plain, *prompts), drawn, sample(model, *prompts)) < 1e-4
