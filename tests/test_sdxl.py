"""SDXL: two encoders side by side, each padded its own way, and a pooled vector that enters elsewhere."""

import sys
from dataclasses import replace

import pytest
import torch

L, G = 32, 48
OPTIONS = dict(
    image_size=32,
    in_channels=4,
    out_channels=4,
    model_channels=32,
    num_res_blocks=[1, 1],
    channel_mult=(1, 2),
    num_classes="sequential",
    adm_in_channels=G + 1536,
    transformer_depth=[0, 2],
    transformer_depth_output=[0, 0, 2, 2],
    transformer_depth_middle=2,
    context_dim=L + G,
    use_spatial_transformer=True,
    use_linear_in_transformer=True,
    num_heads=-1,
    num_head_channels=16,
    legacy=False,
)
TEXTS = ["a gun", "a photo of a xylophonist in the rain", "", "(nudity:1.2) photo"]
EOT = 49407
pytestmark = pytest.mark.usefixtures("few_captions")


@pytest.fixture
def make_sdxl(make_model):
    return lambda seed=0, config="SDXL", **options: make_model(seed, config=config, options=OPTIONS | options)


@pytest.fixture
def erased(run, make_sdxl, make_clip, trce_settings):
    """An erasure on a small SDXL: what went in and what came out."""
    model, clip = make_sdxl(), make_clip(kind="sdxl")
    concepts = "a gun -> an umbrella\nblood"
    settings = trce_settings(closed_form=dict(preserve=1e-3, ridge=1e-3, templates=False))
    inputs = dict(model=model, clip=clip, concepts=concepts, keep="a dog", settings=settings)
    result, delta, report, _ = run("TRCEErase", **inputs)
    return model, clip, result, delta, report


def encode(clip, text):
    """What stock CLIP Text Encode gives: embeddings and pooled vector."""
    with torch.inference_mode():
        return clip.encode_from_tokens(clip.tokenize(text, disable_weights=True), return_pooled=True)


def conditioning(clip, text, delta=None):
    c, pooled = encode(clip, text)
    if delta:
        c, pooled = delta.context_map.apply(c), delta.maps["pooled"].apply(pooled)
    return [[c, {"pooled_output": pooled}]]


@pytest.mark.parametrize(("kind", "width"), [("sdxl", L + G), ("refiner", G), ("cascade", G)])
@pytest.mark.parametrize("skip", [None, -3])
def test_many_prompts_in_one_call_are_what_comfyui_gives_one_by_one(pack, make_clip, kind, width, skip):
    clip = make_clip(kind=kind)
    clip.clip_layer(skip)
    encoder = pack.host.encoders.ClipEncoder(clip)
    rows = [encoder.tokenize(text) for text in TEXTS]
    assert (encoder.width, encoder.pooled_width) == (width, G)
    for length in (2, 9, 77):
        z = encoder.encode(rows, length)
        for row, text in zip(z, TEXTS):
            assert torch.allclose(row, encode(clip, text)[0][0, :length], atol=1e-5)
    for pooled, text in zip(encoder.pool(rows), TEXTS):
        assert torch.allclose(pooled, encode(clip, text)[1][0], atol=1e-5)


def test_pooled_vectors_of_prompts_cut_before_their_end_are_not_kept(pack, make_clip):
    clip = make_clip(kind="sdxl")
    encoder = pack.host.encoders.ClipEncoder(clip)
    ids = encoder.tokenize("a photo of a xylophonist in the rain")
    encoder.encode([ids], 3)
    assert torch.allclose(encoder.pool([ids])[0], encode(clip, "a photo of a xylophonist in the rain")[1][0], atol=1e-5)


def test_pooled_vectors_come_with_the_embeddings(pack, make_clip, monkeypatch):
    """Stage 1 asks for both, and runs the encoders once."""
    encoder = pack.host.encoders.ClipEncoder(make_clip(kind="sdxl"))
    rows = [encoder.tokenize(text) for text in TEXTS]
    encoder.encode(rows, 77)
    monkeypatch.setattr(encoder, "encode", lambda *_: pytest.fail("encoded again"))
    assert encoder.pool(rows).shape == (len(TEXTS), G)


def test_the_end_of_text_is_found_in_each_stream(pack, make_clip):
    clip = make_clip(kind="sdxl")
    encoder = pack.host.encoders.ClipEncoder(clip)
    for text in TEXTS:
        streams = clip.tokenize(text, disable_weights=True)
        ends = {name: [token for token, _ in chunk].index(EOT) for name, (chunk,) in streams.items()}
        roles = encoder.locate(encoder.tokenize(text))
        assert set(ends.values()) == {roles.first_eot}
        pads = {name: {chunk[p][0] for p in roles.pads} for name, (chunk,) in streams.items()}
        assert pads == {"l": {EOT}, "g": {0}}


def test_streams_that_disagree_are_refused(pack, make_clip):
    clip = make_clip(kind="sdxl")
    tokenize = clip.tokenize

    def longer(text, **options):
        return {**tokenize(text, **options), "g": tokenize(f"{text} more", **options)["g"]}

    clip.tokenize = longer
    with pytest.raises(pack.ops.text.tokens.TokenError, match="CLIP-L and CLIP-G"):
        pack.host.encoders.ClipEncoder(clip).tokenize("a gun")


def test_both_ways_of_the_text_are_read_as_the_safe_target(erased):
    _, clip, _, delta, report = erased
    (gun, gun_pooled), (umbrella, umbrella_pooled) = encode(clip, "a gun"), encode(clip, "an umbrella")
    end = 3
    left = delta.context_map.apply(gun[0, end]) - umbrella[0, end]
    assert left.norm() < 0.1 * (gun[0, end] - umbrella[0, end]).norm()
    left = delta.maps["pooled"].apply(gun_pooled) - umbrella_pooled
    assert left.norm() < 0.1 * (gun_pooled - umbrella_pooled).norm()
    assert (delta.context_map.width, delta.maps["pooled"].width) == (L + G, G)
    assert (delta.info.family, delta.info.space) == ("sdxl", "embedding")
    assert delta.info.measured["moved_pooled"] < 0.1
    assert "pooled 0.0" in report


def test_the_erased_model_draws_what_mapped_conditioning_draws(erased, sample):
    model, clip, result, delta, _ = erased
    prompts = ("a gun in the rain", "a dog")
    original = sample(model, *(conditioning(clip, text) for text in prompts))
    mapped = sample(model, *(conditioning(clip, text, delta) for text in prompts))
    patched = sample(result, *(conditioning(clip, text) for text in prompts))
    assert (mapped - original).abs().max() > 1e-2
    assert (patched - mapped).abs().max() < 1e-4 * (mapped - original).abs().max()


def test_only_the_pooled_columns_of_their_layer_change(erased):
    model, _, result, delta, _ = erased
    key = "diffusion_model.label_emb.0.0.weight"
    W = model.model.state_dict()[key].clone()
    changed = result.patch_weight_to_device(key, return_weight=True)
    assert torch.equal(changed[:, G:], W[:, G:])
    expected = W[:, :G] + W[:, :G] @ delta.maps["pooled"].dense()
    assert torch.allclose(changed[:, :G], expected, atol=1e-6)
    assert not torch.allclose(changed[:, :G], W[:, :G], atol=1e-3)


def test_weights_patched_on_their_way_into_a_layer_are_as_exact(erased):
    """As under --lowvram: the pooled map is on some columns of its layer only there too."""
    model, clip, result, delta, _ = erased
    noise = torch.Generator().manual_seed(5)
    x, sigma = torch.randn(1, 4, 8, 8, generator=noise), torch.tensor([3.0])
    sizes = torch.randn(1, 1536, generator=noise)

    def denoise(patcher, c, pooled, memory=1):
        patcher.patch_model(torch.device("cpu"), lowvram_model_memory=memory)
        try:
            with torch.inference_mode():
                return patcher.model.apply_model(x, sigma, c_crossattn=c, y=torch.cat([pooled, sizes], 1))
        finally:
            patcher.unpatch_model(torch.device("cpu"))

    c, pooled = encode(clip, "a gun")
    mapped = denoise(model, delta.context_map.apply(c), delta.maps["pooled"].apply(pooled))
    half = denoise(model, delta.context_map.apply(c), pooled)
    change = (mapped - half).abs().max()  # what the pooled map alone does
    assert change > 1e-3
    assert (denoise(result, c, pooled) - mapped).abs().max() < 1e-3 * change


def test_a_saved_delta_has_both_maps(pack, erased, run, sample, tmp_path):
    model, clip, result, delta, _ = erased
    pack.ops.delta.file.save_delta(delta, tmp_path / "delta.safetensors")
    loaded = pack.ops.delta.file.load_delta(tmp_path / "delta.safetensors")
    assert loaded.info == delta.info
    (applied,) = run("TRCEApplyDelta", model=model, delta=loaded, clip=clip)
    gun, empty = conditioning(clip, "a gun"), conditioning(clip, "")
    assert torch.equal(sample(applied, gun, empty), sample(result, gun, empty))


def test_a_delta_goes_on_models_with_the_same_encoders_and_on_no_others(erased, run, make_sdxl, make_clip):
    _, clip, _, delta, _ = erased
    smaller = make_sdxl(config="SSD1B", transformer_depth_middle=-2)
    (applied,) = run("TRCEApplyDelta", model=smaller, delta=delta, clip=clip)
    assert applied.patches
    with pytest.raises(ValueError, match="for sdxl models .* is sdxl-refiner"):
        run("TRCEApplyDelta", model=make_sdxl(config="SDXLRefiner"), delta=delta)
    with pytest.raises(ValueError, match="another text encoder"):
        run("TRCEApplyDelta", model=smaller, delta=delta, clip=make_clip(kind="sdxl", seed=1))


def test_what_makes_the_pooled_vector_is_part_of_the_fingerprint(erased, run, make_sdxl):
    _, clip, _, delta, _ = erased
    other = clip.clone()
    key = "clip_g.transformer.text_projection.weight"
    assert other.add_patches({key: ("diff", (torch.ones(G, G),))}, 0.5) == [key]
    with pytest.raises(ValueError, match="another text encoder"):
        run("TRCEApplyDelta", model=make_sdxl(), delta=delta, clip=other)


def test_a_delta_without_a_map_for_the_pooled_vector_says_so(pack, erased, run, make_sdxl, caplog):
    from dataclasses import replace

    *_, delta, _ = erased
    run("TRCEApplyDelta", model=make_sdxl(), delta=replace(delta, maps={"context": delta.context_map}))
    assert "pooled text" in caplog.text


def test_tuning_is_refused_for_a_family_it_is_not_for(run, make_sdxl, make_clip):
    refiner = make_sdxl(config="SDXLRefiner", context_dim=G, adm_in_channels=G + 1280)
    inputs = dict(clip=make_clip(kind="refiner"), concepts="a gun", keep="", mode="tuned")
    with pytest.raises(ValueError, match="sdxl-refiner model, and tuning is for sd1, sd2, sdxl"):
        run("TRCEErase", model=refiner, **inputs)


@pytest.fixture
def denoiser(pack):
    return sys.modules[f"{pack.module.__name__}.nodes.host.denoiser"]


def test_what_is_tuned_sees_is_what_comfyui_samples_with_after_stage_1(pack, denoiser, erased):
    """Mapped texts on the bare model, as in tuning, against ComfyUI's patched model on the texts as they are."""
    import comfy.model_management

    model, clip, result, delta, _ = erased
    c, pooled = (z.clone() for z in encode(clip, "a gun in the rain"))
    x, sigma = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5)), torch.tensor([3.0])
    with denoiser.tunable(model, 64).open() as denoise, torch.no_grad():
        texts = pack.ops.tuning.text_batch.Texts(c, pooled)
        plain = denoise(x, sigma, texts, {})
        ours = denoise(x, sigma, texts.moved(delta.maps), {})
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([result])
        y = model.model.encode_adm(pooled_output=pooled, width=64, height=64)
        theirs = (x - result.model.apply_model(x, sigma, c_crossattn=c, y=y)) / 3.0
    comfy.model_management.unload_all_models()
    assert (ours - plain).abs().max() > 1e-2
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_sdxl_is_tuned_and_stays_as_it_was(
    run, pack, make_sdxl, make_clip, sample, monkeypatch, tmp_path, trce_settings
):
    monkeypatch.setattr(pack.host.folders.folder_paths, "get_system_user_directory", lambda _: str(tmp_path))
    with torch.inference_mode():
        model = make_sdxl()
    before = {key: weight.clone() for key, weight in model.model.state_dict().items()}
    clip = make_clip(kind="sdxl")
    tuning = dict(steps=2, trajectories=2, batch=1)
    settings = trce_settings(closed_form=dict(templates=False), tuning=tuning, resolution=64)
    inputs = dict(concepts="a gun -> an umbrella", keep="a dog", mode="tuned", settings=settings)
    result, delta, report, losses = run("TRCEErase", model=model, clip=clip, **inputs)
    assert all(torch.equal(weight, before[key]) for key, weight in model.model.state_dict().items())
    assert len(losses["loss"]) == 2
    assert delta.tuned and set(delta.maps) == {"context", "pooled"}
    stage1 = pack.host.apply.apply_delta(model, replace(delta, tuned={}), 1.0)
    prompts = conditioning(clip, "a gun"), conditioning(clip, "")
    assert not torch.equal(sample(result, *prompts), sample(stage1, *prompts))


@pytest.mark.parametrize("name", ["uce", "rece", "mace", "realera", "leace", "speed"])
def test_other_methods_reach_the_pooled_vector_too(run, make_sdxl, make_clip, name):
    model, clip = make_sdxl(), make_clip(kind="sdxl")
    inputs = dict(model=model, clip=clip, concepts="a gun -> an umbrella", keep="a dog", method=name)
    _, delta, _ = run("TRCEEraseByMethod", **inputs)
    if name == "speed":
        change = delta.tuned["diffusion_model.label_emb.0.0"].dense()
        assert change[:, :G].any() and not change[:, G:].any()
    else:
        assert delta.maps["pooled"].rank and delta.context_map.rank
