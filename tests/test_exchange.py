"""Erasures leave the pack and come in, through stock nodes and files, and the model stays the same."""

import re
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

WIDTH = 32
BLOCK = "diffusion_model.middle_block.1.transformer_blocks.0"
DIFFUSERS = "mid_block.attentions.0.transformer_blocks.0"


@pytest.fixture
def make_delta(pack):
    def build(tuned=True, size=0.5, rank=3):
        noise = torch.Generator().manual_seed(0)
        factors = (torch.randn(WIDTH, rank, generator=noise), size * torch.randn(rank, WIDTH, generator=noise) / rank)
        change = pack.ops.delta.low_rank.WeightChange
        parts = {
            f"{BLOCK}.attn1.to_q": change((0.1 * torch.randn(64, 64, generator=noise),)),
            f"{BLOCK}.attn2.to_k": change(
                (0.1 * torch.randn(64, 2, generator=noise), torch.randn(2, WIDTH, generator=noise))
            ),
        }
        info = pack.ops.delta.file.DeltaInfo("sd1", "encoder", (pack.ops.text.concepts.ConceptPair("a gun"),))
        return pack.ops.delta.file.ErasedDelta(
            {"context": pack.ops.delta.low_rank.ContextMap(factors)}, info, parts if tuned else {}
        )

    return build


@pytest.fixture
def folders(comfy_host, tmp_path, monkeypatch):
    """Output, loras and diffusion_models of this test's own; stock Load LoRA finds what stock Save LoRA wrote."""
    paths = comfy_host.folder_paths
    output, weights = tmp_path / "output", tmp_path / "weights"
    output.mkdir()
    weights.mkdir()
    monkeypatch.setattr(paths, "output_directory", str(output))
    endings = {".safetensors", ".ckpt", ".pt", ".bin", ".sft"}
    monkeypatch.setitem(paths.folder_names_and_paths, "loras", ([str(output / "loras")], endings))
    monkeypatch.setitem(paths.folder_names_and_paths, "diffusion_models", ([str(weights)], endings))
    return tmp_path


@pytest.fixture
def save_and_load(comfy_host, folders):
    """A LORA_MODEL through stock Save LoRA and stock Load LoRA (model only), onto a MODEL."""
    import comfy_extras.nodes_train as train

    def through(model, lora, strength=1.0):
        with torch.inference_mode():
            train.SaveLoRA.execute(lora, "loras/erased")
            (name,) = comfy_host.folder_paths.get_filename_list("loras")
            (loaded,) = comfy_host.nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, strength)
        return loaded

    return through


def weights(model):
    """All weights of a MODEL with its patches on them."""
    return {
        key: model.patch_weight_to_device(key, return_weight=True).float()
        for key in model.model.state_dict()
        if key.startswith("diffusion_model.")
    }


def assert_same_weights(a, b, original, tolerance):
    """Equal up to `tolerance` of what has changed, which must be something."""
    a, b, original = map(weights, (a, b, original))
    change = max((b[key] - original[key]).abs().max() for key in b)
    assert change > 0.05
    assert max((a[key] - b[key]).abs().max() for key in b) < tolerance * change


def lora_on(model):
    """A LoRA on a projection that reads the text, and on one that does not."""
    noise = torch.Generator().manual_seed(3)
    changed = model.clone()
    patches = {
        f"{BLOCK}.attn2.to_k.weight": ("diff", (0.2 * torch.randn(64, WIDTH, generator=noise),)),
        f"{BLOCK}.attn1.to_k.weight": ("diff", (0.2 * torch.randn(64, 64, generator=noise),)),
    }
    assert len(changed.add_patches(patches, 0.7)) == 2
    return changed


# Delta to LoRA


@pytest.mark.parametrize("spelling", ["ComfyUI (every model)", "portable (SD1.x, SD2.x, SDXL)"])
@pytest.mark.parametrize("loras", [False, True])
def test_a_lora_saved_and_loaded_by_stock_nodes_erases_as_the_delta_does(
    pack, run, make_model, make_delta, save_and_load, caplog, spelling, loras
):
    model, delta = make_model(), make_delta()
    if loras:
        model = lora_on(model)
    lora, report = run("TRCEDeltaToLoRA", model=model, delta=delta, spelling=spelling)
    assert all(name.startswith("lora_unet_") == spelling.startswith("portable") for name in lora)
    loaded = save_and_load(model, lora)
    assert "not loaded" not in caplog.text
    assert_same_weights(loaded, pack.host.apply.apply_delta(model, delta, 1.0), model, 1e-5)
    assert "Error 0.00%" in report


def test_portable_names_are_kohyas(run, make_model, make_delta):
    lora, _ = run("TRCEDeltaToLoRA", model=make_model(), delta=make_delta(), spelling="portable (SD1.x, SD2.x, SDXL)")
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.diff" in lora
    assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.diff" in lora


def test_portable_names_of_sdxl_are_kohyas_and_comfyui_knows_them(pack, comfy_host):
    import comfy.lora
    import comfy.model_patcher
    import comfy.ops
    import comfy.supported_models

    sizes = dict(model_channels=32, num_res_blocks=[1, 1], channel_mult=(1, 2), context_dim=WIDTH, num_heads=2)
    depths = dict(transformer_depth=[0, 1], transformer_depth_output=[0, 0, 1, 1], transformer_depth_middle=1)
    flags = dict(use_spatial_transformer=True, use_linear_in_transformer=True, legacy=False)
    vector = dict(num_classes="sequential", adm_in_channels=2816)
    config = dict(image_size=32, in_channels=4, out_channels=4, **sizes, **depths, **flags, **vector)
    config = comfy.supported_models.SDXL(config)
    config.custom_operations = comfy.ops.manual_cast
    cpu = torch.device("cpu")
    model = comfy.model_patcher.ModelPatcher(config.get_model({}, device=cpu), cpu, cpu)
    spell = pack.module.nodes.host.weight_names.portable_module(model)
    known = comfy.lora.model_lora_keys_unet(model.model, {})
    keys = [key for key in model.model.state_dict() if key.endswith(("to_q.weight", "to_k.weight", "0.0.weight"))]
    assert any("label_emb" in key for key in keys)
    assert {key: known[spell(key)] for key in keys} == {key: key for key in keys}
    assert spell(f"{BLOCK}.attn2.to_k.weight") == "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k"


def test_half_precision_costs_its_rounding_only(pack, run, make_model, make_delta, save_and_load):
    model, delta = make_model(dtype=torch.float16), make_delta()
    lora, _ = run("TRCEDeltaToLoRA", model=model, delta=delta)
    assert_same_weights(save_and_load(model, lora), pack.host.apply.apply_delta(model, delta, 1.0), model, 1e-2)
    half, report = run("TRCEDeltaToLoRA", model=model, delta=delta, precision="fp16")
    assert {weight.dtype for weight in half.values()} == {torch.float16}
    assert 0 < float(re.search(r"worst projection ([\d.]+)%", report)[1]) < 0.1


def test_the_strength_of_the_lora_is_that_of_the_erasure(pack, run, make_model, make_delta, save_and_load):
    model, delta = make_model(), make_delta()
    lora, _ = run("TRCEDeltaToLoRA", model=model, delta=delta)
    half = pack.host.apply.apply_delta(model, delta, 0.5)
    assert_same_weights(save_and_load(model, lora, 0.5), half, model, 1e-5)


def test_a_lora_of_low_rank_is_as_far_off_as_the_report_says(pack, run, make_model, make_delta, save_and_load):
    model, delta = make_model(), make_delta()
    lora, report = run("TRCEDeltaToLoRA", model=model, delta=delta, form="low rank", energy=0.9)
    assert not any(name.endswith(".diff") for name in lora)
    erased, loaded = (weights(m) for m in (pack.host.apply.apply_delta(model, delta, 1.0), save_and_load(model, lora)))
    original = weights(model)
    size = sum((erased[key] - original[key]).square().sum() for key in erased).sqrt()
    error = sum((erased[key] - loaded[key]).square().sum() for key in erased).sqrt() / size
    assert 0.05 < error < 0.1**0.5
    assert float(re.search(r"Error ([\d.]+)%", report)[1]) == pytest.approx(100 * error.item(), abs=0.01)


def test_load_lora_model_takes_it_without_a_file(pack, run, make_model, make_delta, sample):
    import comfy_extras.nodes_train as train

    model, delta = make_model(), make_delta()
    lora, _ = run("TRCEDeltaToLoRA", model=model, delta=delta)
    with torch.inference_mode():
        (loaded,) = train.LoraModelLoader.execute(model, lora, 1.0).args
    prompts = torch.randn(2, 1, 77, WIDTH, generator=torch.Generator().manual_seed(7))
    erased, original = (sample(m, *prompts) for m in (pack.host.apply.apply_delta(model, delta, 1.0), model))
    change = (erased - original).abs().max()
    assert change > 1e-2
    assert (sample(loaded, *prompts) - erased).abs().max() < 1e-3 * change


def test_a_lora_is_made_of_the_unpatched_weights_while_patched_ones_are_loaded(run, make_model, make_delta):
    model, delta = lora_on(make_model()), make_delta()
    before, _ = run("TRCEDeltaToLoRA", model=model, delta=delta)
    model.patch_model(torch.device("cpu"))
    try:
        loaded, _ = run("TRCEDeltaToLoRA", model=model, delta=delta)
    finally:
        model.unpatch_model(torch.device("cpu"))
    assert loaded.keys() == before.keys()
    assert all(torch.equal(loaded[name], before[name]) for name in before)


def test_a_delta_that_does_nothing_makes_no_lora(run, make_model, make_delta):
    with pytest.raises(ValueError, match="changes no weight"):
        run("TRCEDeltaToLoRA", model=make_model(), delta=make_delta(tuned=False, size=0.0))


# Save for diffusers, and Load Erased Model Weights


def test_weights_for_diffusers_come_back_as_the_erased_model(pack, run, make_model, make_delta, folders):
    model, delta = make_model(), make_delta()
    for _ in range(2):
        run("TRCESaveDiffusers", model=model, delta=delta, filename_prefix="erased/unet")
    first, second = sorted((folders / "output" / "erased").iterdir())
    assert first.read_bytes() == second.read_bytes()
    file = load_file(first)
    assert all(re.fullmatch(r"(down|mid|up)_blocks?\..*attn[12]\.to_[qkv]\.weight", name) for name in file)
    assert len(file) == len(pack.host.readers.find_text_readers(model).keys) + 1  # and the one that is tuned alone
    key = f"{BLOCK}.attn2.to_v.weight"
    W = model.model.state_dict()[key]
    expected = W + W @ delta.context_map.dense()
    assert torch.allclose(file[f"{DIFFUSERS}.attn2.to_v.weight"], expected, atol=1e-5)

    first.rename(folders / "weights" / "erased.safetensors")
    loaded, lora, report = run("TRCELoadWeights", model=model, weights_name="erased.safetensors")
    assert_same_weights(loaded, pack.host.apply.apply_delta(model, delta, 1.0), model, 1e-5)
    assert f"{len(file)} of the file's {len(file)} weights" in report
    assert not model.patches


@pytest.mark.parametrize("prefix", ["../outside", "..", "", "a/../../outside", "/outside/x"])
def test_nothing_is_saved_outside_the_output_folder(run, make_model, make_delta, folders, prefix):
    with pytest.raises(ValueError, match="'filename_prefix' is"):
        run("TRCESaveDiffusers", model=make_model(), delta=make_delta(), filename_prefix=prefix)
    assert not [path for path in folders.rglob("*") if path.is_file()]


def published(pack, model, changes, prefix=""):
    """The whole U-Net of MODEL in diffusers' names, with some of its weights changed."""
    names = pack.module.nodes.host.weight_names.diffusers_names(model)
    state = model.model.state_dict()
    return {prefix + name: (state[key] + changes.get(key, 0)).contiguous().clone() for name, key in names.items()}


def changes_of(model):
    noise = torch.Generator().manual_seed(5)
    state = model.model.state_dict()
    keys = [f"{BLOCK}.attn2.to_k.weight", f"{BLOCK}.attn2.to_out.0.bias", "diffusion_model.input_blocks.0.0.weight"]
    return {key: 0.2 * torch.randn(state[key].shape, generator=noise) for key in keys}


@pytest.mark.parametrize("prefix", ["", "unet."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_whole_published_unet_patches_what_it_changes_and_nothing_else(
    pack, run, make_model, save_and_load, folders, prefix, dtype
):
    """Also for a file in half precision: its rounding is no change."""
    model = make_model()
    changes = changes_of(model)
    file = {name: weight.to(dtype) for name, weight in published(pack, model, changes, prefix).items()}
    save_file(file, folders / "weights" / "esd.safetensors")
    loaded, lora, report = run("TRCELoadWeights", model=model, weights_name="esd.safetensors", strength=0.5)
    assert set(loaded.patches) == set(changes)
    assert f"3 of the file's {len(file)} weights" in report
    assert "another checkpoint" not in report
    original, patched = weights(model), weights(loaded)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-3
    for key, change in changes.items():
        assert torch.allclose(patched[key], original[key] + 0.5 * change, atol=tolerance)
    again = weights(save_and_load(model, lora, 0.5))
    assert all(torch.allclose(again[key], patched[key], atol=1e-6) for key in patched)


def test_the_node_runs_again_when_the_file_has_changed(pack, folders):
    path = folders / "weights" / "esd.safetensors"
    path.write_bytes(b"one")
    inputs = dict(model=None, weights_name=path.name, strength=1.0)  # links are None at that time
    stamp = pack.nodes["TRCELoadWeights"].fingerprint_inputs(**inputs)
    path.write_bytes(b"another")
    assert pack.nodes["TRCELoadWeights"].fingerprint_inputs(**inputs) != stamp


def test_comfyuis_own_names_are_read_too_and_loras_stay(pack, run, make_model, folders):
    model = make_model()
    (key, change), *_ = changes_of(model).items()
    save_file({f"model.{key}": model.model.state_dict()[key] + change}, folders / "weights" / "part.safetensors")
    loaded, *_ = run("TRCELoadWeights", model=lora_on(model), weights_name="part.safetensors")
    assert torch.allclose(weights(loaded)[key], weights(lora_on(model))[key] + change, atol=1e-5)


def test_one_part_of_a_file_in_several_is_pointed_out(pack, run, make_model, make_delta, folders):
    erased = pack.host.apply.apply_delta(make_model(), make_delta(), 1.0)
    before = weights(make_model())
    whole = published(pack, make_model(), {key: W - before[key] for key, W in weights(erased).items()})
    parts = [dict(part) for part in (list(whole.items())[::2], list(whole.items())[1::2])]
    loaded = make_model()
    for number, part in enumerate(parts, 1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file(part, folders / "weights" / name)
        loaded, _, report = run("TRCELoadWeights", model=loaded, weights_name=name)
        assert "one part of several" in report
    assert_same_weights(loaded, erased, make_model(), 1e-5)
    save_file(whole, folders / "weights" / "whole.safetensors")
    assert "one part of several" not in run("TRCELoadWeights", model=make_model(), weights_name="whole.safetensors")[2]


def test_a_file_made_from_another_checkpoint_is_pointed_out(pack, run, make_model, folders):
    other, alike = make_model(seed=4), next(iter(changes_of(make_model())))  # of thousands, a weight may be the same
    other.model.state_dict()[alike].copy_(make_model().model.state_dict()[alike])
    save_file(published(pack, other, {}), folders / "weights" / "other.safetensors")
    *_, report = run("TRCELoadWeights", model=make_model(), weights_name="other.safetensors")
    assert "another checkpoint" in report


@pytest.mark.parametrize(("size", "text", "suspect"), [(0.02, False, False), (0.2, False, True), (0.02, True, False)])
def test_small_changes_of_everything_are_no_other_checkpoint(pack, run, make_model, folders, size, text, suspect):
    """ESD-u trains all but cross-attention, other methods all."""
    model, noise = make_model(), torch.Generator().manual_seed(1)
    file = published(pack, model, {})
    file = {
        name: W + size * W * torch.randn(W.shape, generator=noise)
        for name, W in file.items()
        if text or "attn2" not in name
    }
    save_file(file, folders / "weights" / "esd-u.safetensors")
    *_, report = run("TRCELoadWeights", model=make_model(), weights_name="esd-u.safetensors")
    assert ("another checkpoint" in report) == suspect and "The changes are" in report


def test_the_size_of_a_change_is_said_and_that_a_large_one_is_no_erasure(run, make_model, folders):
    model = make_model()
    key = next(iter(changes_of(model)))
    W = model.model.state_dict()[key]
    for name, tensor, says in (("little", 1.01 * W, "1.0% of these"), ("zeros", 0 * W, "that is much for an erasure")):
        save_file({f"model.{key}": tensor}, folders / "weights" / f"{name}.safetensors")
        *_, report = run("TRCELoadWeights", model=model, weights_name=f"{name}.safetensors")
        assert says in report.lower()
        assert (name == "zeros") == ("much" in report)


def test_the_weights_of_the_model_itself_change_nothing(pack, run, make_model, folders):
    model = make_model()
    save_file(published(pack, model, {}), folders / "weights" / "same.safetensors")
    loaded, lora, report = run("TRCELoadWeights", model=model, weights_name="same.safetensors")
    assert not loaded.patches
    assert lora == {}
    assert report.startswith("0 of")


class Disk(OSError):
    pass


def test_an_error_of_the_work_on_a_file_is_not_blamed_on_the_file(pack, tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "good.safetensors")
    weight_files = pack.ops.files.weight_files
    with pytest.raises(Disk, match="the disk is full"), weight_files.open_weights(tmp_path / "good.safetensors"):
        raise Disk("the disk is full")
    with pytest.raises(weight_files.WeightFileError, match="'good.safetensors' cannot be used: its tensor"):
        with weight_files.open_weights(tmp_path / "good.safetensors") as file:
            raise weight_files.WeightFileError(f"its tensor {min(file.shapes)} is odd")


GOOD = f"{DIFFUSERS}.attn2.to_k.weight"


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({GOOD: torch.zeros(64, 48)}, "has shape \\(64, 48\\), where the model has \\(64, 32\\)"),
        ({GOOD: torch.full((64, 32), float("nan"))}, "holds NaN or Inf"),
        ({GOOD: torch.zeros(64, 32, dtype=torch.int32)}, "is of type I32"),
        ({"layer.weight": torch.zeros(2)}, "nothing in common"),
        ({}, "nothing in common"),
        ({GOOD: torch.zeros(64, 32), "down_blocks.9.x": torch.zeros(2)}, "1 of its 2 tensors, such as 'down_blocks.9"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_a_sentence(run, make_model, folders, tensors, says):
    save_file(tensors, folders / "weights" / "bad.safetensors")
    model = make_model()
    with pytest.raises(ValueError, match=f"'bad.safetensors' cannot be used: .*{says}"):
        run("TRCELoadWeights", model=model, weights_name="bad.safetensors")
    assert not model.patches


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("esd.pt", None, "looks like a pickle .* convert it to safetensors"),
        ("renamed.safetensors", None, "looks like a pickle"),
        ("huge.safetensors", struct.pack("<Q", 1 << 25) + b" " * (1 << 25), "header has 33554432 bytes"),
        ("cut.safetensors", struct.pack("<Q", 1 << 60) + b"{}", "cannot be read as a safetensors file"),
        ("empty.safetensors", b"", "cannot be read as a safetensors file"),
    ],
)
def test_what_is_no_safetensors_file_is_refused_unopened(run, make_model, folders, name, content, says):
    path = folders / "weights" / name
    if content is None:
        torch.save({GOOD: torch.zeros(64, 32)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"'{name}' .*{says}"):
        run("TRCELoadWeights", model=make_model(), weights_name=name)


def test_nothing_is_loaded_from_outside_the_folder(run, make_model, folders):
    save_file({GOOD: torch.zeros(64, 32)}, folders / "outside.safetensors")
    with pytest.raises(FileNotFoundError):
        run("TRCELoadWeights", model=make_model(), weights_name="../outside.safetensors")


def test_a_model_of_another_architecture_is_refused_by_name(pack, make_model, make_delta, monkeypatch):
    model = make_model()
    monkeypatch.delitem(model.model.model_config.unet_config, "num_res_blocks")
    with pytest.raises(pack.host.errors.HostError, match="'model' is a SD15"):
        pack.module.nodes.host.weight_names.diffusers_names(model)


# SPM and LECO


def test_spm_and_leco_files_load_in_stock_load_lora(comfy_host, make_model, folders, caplog):
    """Their published names: kohya's of the U-Net in diffusers' spelling, rank 1, alpha beside, half precision."""
    noise = torch.Generator().manual_seed(6)
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    up, down = torch.randn(64, 1, generator=noise).half(), torch.randn(1, WIDTH, generator=noise).half()
    (folders / "output" / "loras").mkdir()
    file = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(1.0).half()}
    save_file(file, folders / "output" / "loras" / "spm.safetensors")
    model = make_model()
    (loaded,) = comfy_host.nodes.LoraLoaderModelOnly().load_lora_model_only(model, "spm.safetensors", 1.0)
    key = f"{BLOCK}.attn2.to_k.weight"
    expected = model.model.state_dict()[key] + up.float() @ down.float()
    assert torch.allclose(weights(loaded)[key], expected, atol=1e-4)
    assert "not loaded" not in caplog.text
