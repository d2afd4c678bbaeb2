"""Families that have no weights to put the map on: it goes on the conditioning, through real sampling."""

import weakref

import pytest
import torch

KREA = dict(features=64, tdim=32, txtdim=24, heads=2, kvheads=1, multiplier=2, layers=1, txtlayers=3, txtheads=2)
KREA |= dict(txtkvheads=2, image_model="krea2")
SD3 = dict(
    input_size=None,
    patch_size=2,
    in_channels=16,
    depth=2,
    num_blocks=2,
    adm_in_channels=20,
    context_embedder_config=dict(target="torch.nn.Linear", params=dict(in_features=128, out_features=128)),
    pos_embed_max_size=16,
    num_patches=256,
    qk_norm="rms",
    x_block_self_attn_layers=[0],
)
LTX2 = dict(
    image_model="ltxav",
    in_channels=16,
    audio_in_channels=16,
    cross_attention_dim=64,
    audio_cross_attention_dim=32,
    attention_head_dim=32,
    audio_attention_head_dim=16,
    num_attention_heads=2,
    audio_num_attention_heads=2,
    caption_channels=32,
    num_layers=1,
    connector_attention_head_dim=16,
    connector_num_attention_heads=2,
    connector_num_layers=1,
)


@pytest.fixture
def make_delta(pack):
    ContextMap = pack.ops.delta.low_rank.ContextMap

    def build(family, width, seed=0, size=0.5, **streams):
        noise = torch.Generator().manual_seed(seed)
        maps = {
            kind: ContextMap((size * torch.randn(d, d, generator=noise) / d**0.5,))
            for kind, d in {"context": width, **streams}.items()
        }
        info = pack.ops.delta.file.DeltaInfo(family, "encoder", ())
        return pack.ops.delta.file.ErasedDelta(maps, info)

    return build


@pytest.fixture
def prompts():
    """prompts(width) -> two prompts of 10 tokens."""
    return lambda width: torch.randn(2, 1, 10, width, generator=torch.Generator().manual_seed(7))


def assert_same_image(a, b, original):
    change = (b - original).abs().max()
    assert change > 1e-3
    assert (a - b).abs().max() < 1e-4 * change


class Moved(torch.Tensor):
    """Notes every copy to another device or type."""

    moves = []

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        if function is torch.Tensor.to and result.data_ptr() != args[0].data_ptr():
            cls.moves.append(tuple(result.shape))
        return result


def test_the_map_is_uploaded_once_and_not_at_every_step(pack, monkeypatch):
    monkeypatch.setattr(Moved, "moves", [])
    low_rank = pack.ops.delta.low_rank
    up, down = torch.randn(8, 3, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)  # so that they must move
    factors = up.as_subclass(Moved), down.as_subclass(Moved)
    on_text = pack.host.apply.ConditioningMap({"context": low_rank.ContextMap(factors)}, 0.5)
    c = torch.randn(2, 5, 8)
    for _ in range(4):
        mapped = on_text.apply(c).as_subclass(torch.Tensor)
    torch.testing.assert_close(mapped, c + 0.5 * c @ (up @ down).float().mT)
    assert Moved.moves == [(8, 3), (3, 8)]


def test_the_uploaded_map_is_dropped_when_sampling_ends(pack, make_sd3, make_delta, sample, prompts, monkeypatch):
    ContextMap, uploaded = pack.ops.delta.low_rank.ContextMap, []
    upload = ContextMap.to

    def noted(self, *place):
        copy = upload(self, *place)
        uploaded.append(weakref.ref(copy))
        return copy

    monkeypatch.setattr(ContextMap, "to", noted)
    image = dict(shape=(1, 16, 8, 8), pooled_output=torch.ones(1, 20))
    erased = pack.host.apply.apply_delta(make_sd3(True), make_delta("sd3", 128), 1.0)
    first, again = (sample(erased.clone(), *prompts(128), **image) for _ in range(2))
    assert torch.equal(first, again)
    assert len(uploaded) == 2 and not any(copy() for copy in uploaded)


def test_krea2_is_mapped_on_the_conditioning(pack, make_model, make_delta, sample, prompts):
    model = make_model(config="Krea2", options=KREA)
    c, image = prompts(72), dict(shape=(1, 16, 8, 8))
    before, original = c.clone(), sample(model, *c, **image)
    for strength in (1.0, 0.5, -1.0):
        delta = make_delta("krea2", 72)
        erased = pack.host.apply.apply_delta(model, delta, strength)
        assert_same_image(
            sample(erased, *c, **image), sample(model, *delta.context_map.apply(c, strength), **image), original
        )
    assert torch.equal(c, before)
    assert not model.wrappers
    assert torch.equal(sample(model, *c, **image), original)
    assert torch.equal(sample(pack.host.apply.apply_delta(model, delta, 0.0), *c, **image), original)


def test_deltas_on_the_conditioning_compose_as_those_on_weights_do(pack, make_model, make_delta, sample, prompts):
    model = make_model(config="Krea2", options=KREA)
    first, second = (make_delta("krea2", 72, seed) for seed in (0, 1))
    c, image = prompts(72), dict(shape=(1, 16, 8, 8))
    once = pack.host.apply.apply_delta(model, first, 1.0)
    stacked = pack.host.apply.apply_delta(once, second, 0.5)
    mapped = first.context_map.apply(second.context_map.apply(c, 0.5))
    assert_same_image(sample(stacked, *c, **image), sample(model, *mapped, **image), sample(model, *c, **image))
    assert_same_image(
        sample(once, *c, **image), sample(model, *first.context_map.apply(c), **image), sample(model, *c, **image)
    )


def test_a_prompt_of_another_encoder_is_refused(pack, make_model, make_delta, sample, prompts):
    erased = pack.host.apply.apply_delta(make_model(config="Krea2", options=KREA), make_delta("krea2", 48), 1.0)
    with pytest.raises(pack.host.errors.HostError, match="width 48 .* width 72"):
        sample(erased, *prompts(72), shape=(1, 16, 8, 8))


def test_ltx2_is_mapped_before_its_text_is_worked_up(pack, make_model, make_delta, prompts):
    model, delta = make_model(config="LTXAV", options=LTX2), make_delta("ltx2", 32)
    (c, _), device = prompts(32), torch.device("cpu")

    def conditions(model, c):
        model.patch_model()
        try:
            with torch.inference_mode():
                return model.model.extra_conds(cross_attn=c, device=device, noise=torch.zeros(1, 16, 1, 4, 4))
        finally:
            model.unpatch_model()

    original, mapped = (conditions(model, text)["c_crossattn"].cond for text in (c, delta.context_map.apply(c)))
    erased = conditions(pack.host.apply.apply_delta(model, delta, 1.0), c)["c_crossattn"].cond
    assert_same_image(erased, mapped, original)
    assert torch.equal(conditions(model, c)["c_crossattn"].cond, original)


def sd3_maps(delta, c, rows, strength):
    """By hand: the first rows are CLIP's, with its map on their first columns."""
    clip, d = delta.maps["clip"], delta.maps["clip"].width
    of_clip = torch.nn.functional.pad(clip.apply(c[..., :rows, :d], strength), (0, c.shape[-1] - d))
    return torch.cat([of_clip, delta.context_map.apply(c[..., rows:, :], strength)], -2)


@pytest.fixture
def make_sd3(make_model, fill_weights):
    """make_sd3(processed) -> an SD3, on request with the layers before its reader that some models have."""
    import comfy.ldm.modules.diffusionmodules.mmdit as mmdit
    import comfy.ops

    def build(processed):
        model = make_model(config="SD3", options=SD3)
        network = model.model.diffusion_model
        network.pos_embed.normal_(generator=torch.Generator().manual_seed(3))
        if processed:
            processor = mmdit.ContextProcessor(128, 1, dtype=torch.float32, operations=comfy.ops.manual_cast)
            network.context_processor = fill_weights(processor, 5)
        return model

    return build


@pytest.mark.parametrize("processed", [False, True])
def test_sd3_takes_a_map_for_the_rows_of_clip_and_one_for_t5(pack, make_sd3, make_delta, sample, prompts, processed):
    model, c = make_sd3(processed), prompts(128)
    c[..., :4, 40:] = 0  # rows of CLIP: 40 wide
    image = dict(shape=(1, 16, 8, 8), pooled_output=torch.ones(1, 20))
    delta = make_delta("sd3", 128, clip=40)
    # Such layers write into the text that they are given.
    original = sample(model, *c.clone(), **image)
    erased = sample(pack.host.apply.apply_delta(model, delta, 0.7), *c.clone(), **image)
    assert_same_image(erased, sample(model, *sd3_maps(delta, c, 4, 0.7), **image), original)


def test_sd3_with_a_processor_in_front_takes_its_one_map_on_the_conditioning(
    pack, make_sd3, make_delta, sample, prompts
):
    model, delta, c = make_sd3(True), make_delta("sd3", 128, pooled=20), prompts(128)
    pooled = torch.randn(1, 20, generator=torch.Generator().manual_seed(8))
    erased = pack.host.apply.apply_delta(model, delta, 1.0)
    image = dict(shape=(1, 16, 8, 8))
    original = sample(model, *c.clone(), pooled_output=pooled, **image)
    mapped = dict(pooled_output=delta.maps["pooled"].apply(pooled), **image)
    assert_same_image(
        sample(erased, *c.clone(), pooled_output=pooled, **image),
        sample(model, *delta.context_map.apply(c), **mapped),
        original,
    )


def test_maps_for_text_that_a_family_does_not_read_are_refused(pack, make_model, make_delta):
    for streams in (dict(clip=24), dict(pooled=20)):
        with pytest.raises(pack.host.errors.HostError, match="The delta is for krea2 models"):
            pack.host.apply.apply_delta(
                make_model(config="Krea2", options=KREA), make_delta("krea2", 72, **streams), 1.0
            )
