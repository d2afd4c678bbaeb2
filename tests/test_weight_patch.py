"""The map on the weights is the map on the conditioning: through real sampling, on every kind of MODEL."""

import pytest
import torch

WIDTH = 32
KEY = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture
def make_delta(pack):
    def build(seed=0, rank=4, size=0.5, family="sd1", width=WIDTH):
        noise = torch.Generator().manual_seed(seed)
        up = torch.randn(width, rank, generator=noise)
        down = torch.randn(rank, width, generator=noise) * size / max(rank, 1) ** 0.5
        factors = (up @ down,) if rank == width else (up, down)
        info = pack.ops.delta.file.DeltaInfo(family, "encoder", (pack.ops.text.concepts.ConceptPair("a gun"),))
        return pack.ops.delta.file.ErasedDelta({"context": pack.ops.delta.low_rank.ContextMap(factors)}, info)

    return build


@pytest.fixture
def prompts():
    return torch.randn(2, 1, 77, WIDTH, generator=torch.Generator().manual_seed(7))


def bits(model):
    return {key: weight.clone() for key, weight in model.model.state_dict().items()}


def same_bits(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def assert_same_image(a, b, original, tolerance=1e-4):
    """Equal up to `tolerance` of what the erasure changes, which must be something."""
    change = (b - original).abs().max()
    assert change > 1e-2
    assert (a - b).abs().max() < tolerance * change


@pytest.mark.parametrize("rank", [4, WIDTH])
@pytest.mark.parametrize("strength", [1.0, 0.5, -1.0])
def test_patched_weights_draw_what_mapped_conditioning_draws(
    pack, make_model, make_delta, sample, prompts, rank, strength
):
    model, delta = make_model(), make_delta(rank=rank)
    original = sample(model, *prompts)
    mapped = sample(model, *delta.context_map.apply(prompts, strength))
    patched = sample(pack.host.apply.apply_delta(model, delta, strength), *prompts)
    assert_same_image(patched, mapped, original)


def test_half_precision_weights_differ_by_their_rounding_only(pack, make_model, make_delta, sample, prompts):
    model, delta = make_model(dtype=torch.float16), make_delta()
    mapped = sample(model, *delta.context_map.apply(prompts))
    patched = sample(pack.host.apply.apply_delta(model, delta, 1.0), *prompts)
    assert_same_image(patched, mapped, sample(model, *prompts), tolerance=1e-2)


def test_zero_strength_is_the_model_bit_for_bit(pack, make_model, make_delta, sample, prompts):
    model = make_model()
    erased = pack.host.apply.apply_delta(model, make_delta(), 0.0)
    assert not erased.patches
    assert torch.equal(sample(erased, *prompts), sample(model, *prompts))


def test_a_map_that_does_nothing_changes_no_bit(pack, make_model, make_delta):
    assert not pack.host.apply.apply_delta(make_model(), make_delta(rank=0, size=0), 1.0).patches


def test_the_model_that_came_in_is_not_touched(pack, make_model, make_delta, sample, prompts):
    import comfy.model_management

    model = make_model()
    before, uuid = bits(model), model.patches_uuid
    original = sample(model, *prompts)
    sample(pack.host.apply.apply_delta(model, make_delta(), 1.0), *prompts)
    assert torch.equal(sample(model, *prompts), original)
    comfy.model_management.unload_all_models()
    assert same_bits(bits(model), before)
    assert not model.patches
    assert model.patches_uuid == uuid


def lora(model):
    """A LoRA on one of the projections that read the text, on another layer, and a scaling of both."""
    noise = torch.Generator().manual_seed(3)
    changed = model.clone()
    patches = {KEY: ("diff", (0.2 * torch.randn(64, WIDTH, generator=noise),))}
    assert changed.add_patches(patches, 0.7, 0.9) == [KEY]
    return changed


def test_a_lora_under_the_erasure_is_erased_too(pack, make_model, make_delta, sample, prompts):
    model, delta = lora(make_model()), make_delta()
    mapped = sample(model, *delta.context_map.apply(prompts))
    patched = sample(pack.host.apply.apply_delta(model, delta, 1.0), *prompts)
    assert_same_image(patched, mapped, sample(model, *prompts))


def test_a_lora_over_the_erasure_is_left_alone(pack, make_model, make_delta):
    model, delta = make_model(), make_delta()
    W = model.model.state_dict()[KEY].clone()
    changed = lora(pack.host.apply.apply_delta(model, delta, 1.0))
    L = changed.patches[KEY][1][1][1][0]
    expected = 0.9 * (W + W @ delta.context_map.dense()) + 0.7 * L
    assert torch.allclose(changed.patch_weight_to_device(KEY, return_weight=True), expected, atol=1e-5)


def test_deltas_compose_in_the_order_applied(pack, make_model, make_delta, sample, prompts):
    model, first, second = make_model(), make_delta(0), make_delta(1)
    stacked = pack.host.apply.apply_delta(pack.host.apply.apply_delta(model, first, 1.0), second, 0.5)
    # W' = (W T1) T2, so the conditioning goes through the second map before the first.
    mapped = first.context_map.apply(second.context_map.apply(prompts, 0.5))
    assert_same_image(sample(stacked, *prompts), sample(model, *mapped), sample(model, *prompts))
    other = second.context_map.apply(first.context_map.apply(prompts), 0.5)
    assert (mapped - other).abs().max() > 0.1


def test_one_object_serves_every_projection(pack, make_model, make_delta):
    erased = pack.host.apply.apply_delta(make_model(), make_delta(), 1.0)
    keys = {key for key in erased.model.state_dict() if key.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))}
    assert set(erased.patches) == keys
    assert len({id(patch[1]) for patches in erased.patches.values() for patch in patches}) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_offloaded_weights_are_mapped_when_they_are_used(pack, make_model, make_delta, prompts, dtype):
    """As under --lowvram: the weights stay as they are and are patched on their way into every layer."""
    model, delta = make_model(dtype=dtype), make_delta()
    noise = torch.Generator().manual_seed(5)
    x, sigma = torch.randn(1, 4, 8, 8, generator=noise), torch.tensor([3.0])

    def denoise(patcher, context, memory):
        patcher.patch_model(torch.device("cpu"), lowvram_model_memory=memory)
        try:
            with torch.inference_mode():
                return patcher.model.apply_model(x, sigma, c_crossattn=context), patcher.model.lowvram_patch_counter
        finally:
            patcher.unpatch_model(torch.device("cpu"))

    before = bits(model)
    original, _ = denoise(model, prompts[0], 0)
    mapped, _ = denoise(model, delta.context_map.apply(prompts[0]), 0)
    patched, offloaded = denoise(pack.host.apply.apply_delta(model, delta, 1.0), prompts[0], 1)
    assert offloaded == len(pack.host.readers.find_text_readers(model).keys)
    assert_same_image(patched, mapped, original)
    assert same_bits(bits(model), before)


def test_dynamic_loading_maps_weights_when_they_are_fetched(pack, make_model, make_delta, monkeypatch):
    """ComfyUI's loader for GPUs, on a CPU: without what it keeps there, and each layer fetched by hand."""
    import comfy.model_patcher
    import comfy_aimdo.host_buffer

    class Dynamic(comfy.model_patcher.ModelPatcherDynamic):
        def __new__(cls, *args, **options):
            return object.__new__(cls)

        def __del__(self):
            pass

    monkeypatch.setattr(comfy_aimdo.host_buffer, "HostBuffer", lambda *args: None)
    cpu, delta = torch.device("cpu"), make_delta(width=256)  # weights of less than 16 KB would be loaded at once
    model = Dynamic(make_model(width=256).model, cpu, cpu)
    before = bits(model)
    erased = pack.host.apply.apply_delta(model, delta, 0.5)
    erased.load(cpu)
    modules = {f"{name}.weight": module for name, module in erased.model.named_modules()}
    fetches = {key: getattr(module, "weight_lowvram_function", None) for key, module in modules.items()}
    keys = pack.host.readers.find_text_readers(model).keys
    assert {key for key, fetch in fetches.items() if fetch} == set(keys)
    for key in keys:
        W = before[key]
        assert torch.allclose(fetches[key](W.clone()), W + 0.5 * W @ delta.context_map.dense(), atol=1e-5)
    assert same_bits(bits(model), before)


def test_the_host_can_stage_the_patch_on_another_device(pack, make_delta):
    """ComfyUI rebuilds adapters around copies of their weights when it prefetches."""
    import comfy.lora

    patch = pack.host.apply.ContextMapPatch(set(), make_delta().context_map.factors)
    staged = comfy.lora.prefetch_prepared_value(patch, [0], None, None, False)
    W = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(2))
    args = ("key", 0.5, 1.0, None, lambda a: a)
    torch.testing.assert_close(patch.calculate_weight(W.clone(), *args), staged.calculate_weight(W.clone(), *args))


def test_a_delta_for_another_width_or_family_is_refused(pack, make_model, make_delta):
    model = make_model()
    for delta in (make_delta(width=48), make_delta(family="sd2")):
        with pytest.raises(pack.host.errors.HostError, match="The delta is for"):
            pack.host.apply.apply_delta(model, delta, 1.0)
    assert not model.patches


def test_upscalers_that_read_the_text_in_attn1_have_it_mapped_there_too(pack, make_model):
    model = make_model()
    block = model.model.diffusion_model.middle_block[1].transformer_blocks[0]
    block.disable_self_attn = True
    block.attn1.to_k.weight = torch.nn.Parameter(torch.zeros(64, WIDTH))
    block.attn1.to_v.weight = torch.nn.Parameter(torch.zeros(64, WIDTH))
    assert KEY.replace("attn2", "attn1") in pack.host.readers.find_text_readers(model).keys


def test_models_of_other_families_are_refused_by_name(pack, make_model):
    import comfy.supported_models

    model = make_model()
    model.model.model_config.__class__ = comfy.supported_models.SDXL
    with pytest.raises(pack.host.errors.HostError, match="'model' is a SDXL"):
        pack.host.readers.find_text_readers(model)
