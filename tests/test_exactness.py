"""An erased MODEL in low precision and with quantised weights; test_in_the_graph.py has ComfyUI's other nodes."""

import pytest
import torch

WIDTH = 32
KEY = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture
def delta(pack):
    noise = torch.Generator().manual_seed(0)
    up, down = torch.randn(WIDTH, 4, generator=noise), torch.randn(4, WIDTH, generator=noise) / 4
    info = pack.ops.delta.file.DeltaInfo("sd1", "encoder", (pack.ops.text.concepts.ConceptPair("a gun"),))
    return pack.ops.delta.file.ErasedDelta({"context": pack.ops.delta.low_rank.ContextMap((up, down))}, info)


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
    quantised, pack, make_model, delta, prompts, denoise, on_the_fly, tolerance
):
    """fp8 with a scale, as in scaled checkpoints: ComfyUI dequantises, and quantises again what it keeps loaded."""
    model = make_model()
    quantised(model.model)
    assert type(model.model.get_parameter(KEY).data).__name__ == "QuantizedTensor"
    original, mapped = (denoise(model, c, True) for c in (prompts[0], delta.context_map.apply(prompts[0])))
    erased = pack.host.apply.apply_delta(model, delta, 1.0)
    assert error(denoise(erased, prompts[0], on_the_fly), mapped, original) < tolerance


def test_a_lora_can_be_made_for_a_quantised_model(quantised, pack, run, make_model, delta):
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
    quantised, run, make_model, delta, comfy_host, tmp_path, monkeypatch
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


def test_weights_for_diffusers_of_a_model_in_eight_bits_keep_a_small_erasure(
    run, pack, make_model, delta, comfy_host, tmp_path, monkeypatch
):
    from safetensors.torch import load_file

    monkeypatch.setattr(comfy_host.folder_paths, "output_directory", str(tmp_path))
    model = make_model(dtype=torch.float8_e4m3fn)
    up, down = delta.context_map.factors
    small = pack.ops.delta.file.ErasedDelta(
        {"context": pack.ops.delta.low_rank.ContextMap((0.01 * up, down))}, delta.info
    )
    W = model.model.get_parameter(KEY).data.float()
    run("TRCESaveDiffusers", model=model, delta=small, filename_prefix="unet")
    (path,) = tmp_path.iterdir()
    saved = load_file(path)["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].float()
    change = W @ small.context_map.dense()
    assert 0 < change.norm() < 0.05 * W.norm()
    assert (saved - W - change).norm() < 0.02 * change.norm()


def test_a_quantised_text_encoder_has_a_fingerprint(quantised, pack, make_model, make_clip):
    """As the fp8 T5 that most people load."""
    readers = pack.host.readers.find_text_readers(make_model())
    clips = [make_clip(seed=seed) for seed in (0, 0, 1)]
    for clip in clips:
        quantised(clip.cond_stage_model, ("mlp.fc1", "mlp.fc2"))
    with torch.inference_mode():
        first, again, other = (pack.host.encoders.text_fingerprint(clip, readers) for clip in clips)
    assert first == again != other
