"""Models that ComfyUI has loaded with DynamicVRAM, its default on NVIDIA: here on the CPU, with its own code around."""

import gc
import types
import weakref

import pytest
import torch


@pytest.fixture
def dynamic(comfy_host):
    """dynamic(make) -> what `make` gives, as ComfyUI holds it with DynamicVRAM: as a patcher that knows its file."""
    from comfy.model_patcher import ModelPatcher

    class Dynamic(ModelPatcher):
        def is_dynamic(self):
            return True

    def build(make):
        made = make()
        patcher = getattr(made, "patcher", made)
        patcher.__class__ = Dynamic
        made.copies = []  # weak references to the networks

        def reload(disable_dynamic):
            assert disable_dynamic
            again = make()
            made.copies.append(weakref.ref(getattr(again, "patcher", again).model))
            return getattr(again, "patcher", again)

        patcher.cached_patcher_init = reload, ()
        return made

    return build


def alive(*models):
    """The copies that somebody still holds."""
    gc.collect()
    return [ref() for model in models for ref in model.copies if ref() is not None]


def lora(patcher, key, seed=0):
    """A LoRA on one weight of a MODEL or of the patcher of a CLIP."""
    out, width = patcher.model.state_dict()[key].shape
    up, down = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for shape in ((out, 2), (2, width)))
    assert patcher.add_patches({key: ("diff", (up @ down,))}, 0.5)
    return patcher


READER = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
TEXT = "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"


def test_a_layer_that_has_been_fetched_is_still_read(pack, comfy_host, monkeypatch):
    """ComfyUI leaves the fetched copy on the layer, with the patches that it had."""
    import comfy.cli_args
    import comfy.memory_management
    import comfy.model_management
    import comfy.ops

    if not hasattr(comfy.ops, "cast_modules_with_vbar"):
        pytest.skip("an older ComfyUI, which fetches in another way")
    import comfy_aimdo.model_vbar
    import comfy_aimdo.torch

    layer = comfy.ops.manual_cast.Linear(768, 320, bias=False)
    layer.weight = torch.nn.Parameter(torch.randn(320, 768), requires_grad=False)
    size = comfy.memory_management.vram_aligned_size([layer.weight])
    layer._v, layer._v_signature, layer._pin_state = types.SimpleNamespace(size=size), None, {}
    monkeypatch.setattr(comfy_aimdo.model_vbar, "vbar_fault", lambda v: b"somewhere")
    monkeypatch.setattr(comfy_aimdo.torch, "aimdo_to_tensor", lambda v, device: torch.empty(v.size, dtype=torch.uint8))
    monkeypatch.setattr(comfy.cli_args.args, "disable_pinned_memory", True)
    monkeypatch.setattr(comfy.model_management, "get_offload_stream", lambda device: None)
    cpu = torch.device("cpu")
    comfy.ops.cast_modules_with_vbar([layer], torch.float32, cpu, torch.float32, False)
    comfy.ops.resolve_cast_module_with_vbar(layer, torch.float32, cpu, torch.float32, None, False)
    layer._pin = torch.empty(size, dtype=torch.uint8)  # as older ComfyUI keeps it
    assert torch.is_tensor(layer._v_weight)
    pack.host.weights.check_alone("to_k", layer)


def test_a_model_is_trained_on_a_copy_that_is_gone_afterwards(pack, make_model, dynamic):
    from comfy.model_management import current_loaded_models

    def predict(model):
        texts = pack.ops.tuning.text_batch.Texts(torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(1)))
        with pack.host.denoiser.open_denoiser(model, 64) as denoise:
            x = denoise.noise(1, torch.Generator().manual_seed(2), torch.tensor(5.0))
            changed = denoise.weights[READER].clone().requires_grad_()
            denoise(x, torch.tensor([5.0]), texts, {READER: changed}).square().sum().backward()
        held.append(denoise)  # as a caller may
        return changed.grad

    held = []
    model = lora(dynamic(make_model), READER)
    assert torch.equal(predict(model), predict(lora(make_model(), READER)))
    assert len(model.copies) == 1 and not alive(model)
    assert all(entry.model is not model for entry in current_loaded_models)


def test_a_probe_holds_one_copy_at_a_time(run, make_model, make_clip, dynamic):
    model, unedited, clip = dynamic(make_model), dynamic(make_model), dynamic(make_clip)
    before = []
    for one in (model, unedited):
        reload, given = one.cached_patcher_init
        one.cached_patcher_init = (
            lambda reload=reload, **asked: before.append(len(alive(model, unedited))) or reload(**asked),
            given,
        )
    noise = torch.Generator().manual_seed(3)
    inputs = dict(
        model=model, unedited_model=unedited, clip=clip, pictures={"samples": torch.randn(1, 4, 8, 8, generator=noise)}
    )
    run("TRCEProbeConceptInversion", **inputs, prompt="a photo of *", steps=1, black_box=True)
    assert len(before) > 2 and not any(before) and not alive(model, unedited, clip)


def test_a_text_encoder_is_learned_on_with_its_loras(pack, make_clip, dynamic):
    def encode(clip):
        with pack.host.soft_prompts.open_encoder(clip, False) as encoder:
            return encoder.encode([encoder.tokenize("a gun")]).sequence.detach()

    clip = dynamic(make_clip)
    lora(clip.patcher, TEXT)
    plain = make_clip()
    assert not torch.equal(encode(clip), encode(plain))
    lora(plain.patcher, TEXT)
    assert torch.equal(encode(clip), encode(plain)) and len(clip.copies) == 2


@pytest.mark.parametrize("node, inputs", [("TRCEErase", dict(mode="tuned")), ("TRCEEraseByMethod", dict(method="esd"))])
def test_a_model_without_a_file_is_refused_before_anything_is_computed(
    run, make_model, make_clip, dynamic, node, inputs
):
    given = dict(model=dynamic(make_model), clip=make_clip(), concepts="a gun -> a cake")
    given["model"].cached_patcher_init = None
    with pytest.raises(ValueError, match="'model' was loaded by a node .* --disable-dynamic-vram, or (set|choose)"):
        run(node, **given, **inputs)
    run("TRCEErase", **given)  # the closed form needs no gradients


@pytest.mark.parametrize("known", [True, False])
def test_a_text_encoder_without_a_file_is_tuned_against_embeddings(
    run, make_model, make_clip, dynamic, trce_settings, known
):
    clip, settings = dynamic(make_clip), trce_settings(tuning=dict(steps=2, trajectories=1, batch=1), resolution=64)
    if not known:
        clip.patcher.cached_patcher_init = None
    given = dict(model=make_model(), clip=clip, concepts="a gun -> a cake", mode="tuned", settings=settings)
    _, delta, report, _ = run("TRCEErase", **given)
    assert delta.info.settings["tune_adversary"] == ("words" if known else "embeddings")
    assert ("'clip' was loaded by a node that does not say from which file" in report) != known


@pytest.mark.parametrize("missing", ["model", "unedited_model", "clip"])
def test_probes_name_the_input_without_a_file(pack, run, make_model, make_clip, dynamic, missing):
    inputs = dict(model=dynamic(make_model), unedited_model=dynamic(make_model), clip=dynamic(make_clip))
    getattr(inputs[missing], "patcher", inputs[missing]).cached_patcher_init = None
    pictures = {"samples": torch.zeros(1, 4, 8, 8)}
    with pytest.raises(pack.host.errors.HostError, match=f"'{missing}' was loaded by a node"):
        run("TRCEProbeConceptInversion", **inputs, pictures=pictures, prompt="a photo of *")


def test_a_network_that_another_node_replaced_is_unloaded_before_it_is_read(pack, make_model):
    """Also the whole of it, as nodes do that compile a model."""
    import comfy.model_management

    class Wrapped(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.inner = network

    model = make_model()
    other = model.clone()
    other.add_object_patch("diffusion_model", Wrapped(model.model.diffusion_model))
    comfy.model_management.load_models_gpu([other])
    assert pack.host.readers.find_text_readers(model).keys == pack.host.readers.find_text_readers(make_model()).keys
