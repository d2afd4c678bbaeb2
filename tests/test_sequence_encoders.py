"""T5 and language models: which tokens take which part, and erasing with them from the node to the latents."""

import runpy
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

TINY = runpy.run_path(str(Path(__file__).with_name("networks.py")))
FLUX = TINY["FLUX"] | dict(image_model="flux", vec_in_dim=32, context_in_dim=32)
PIXART = TINY["PIXART"] | dict(image_model="pixart_sigma", caption_channels=32)
ZIMAGE = TINY["ZIMAGE"] | dict(image_model="lumina2", cap_feat_dim=32)
SD3 = TINY["MMDIT"] | dict(adm_in_channels=80)
SD3["context_embedder_config"] = dict(target="torch.nn.Linear", params=dict(in_features=4096, out_features=128))
HIDREAM = TINY["HIDREAM"] | dict(image_model="hidream", caption_channels=[32, 96], text_emb_dim=80, llama_layers=[1, 3])


pytestmark = pytest.mark.usefixtures("few_captions")


@pytest.fixture
def inputs(trce_settings):
    settings = trce_settings(closed_form=dict(preserve=1e-3, ridge=1e-3, templates=False))
    return dict(concepts="a gun -> an umbrella", keep="a dog", settings=settings)


@pytest.fixture
def make_encoder(pack, make_clip):
    return lambda kind: pack.module.nodes.host.sequence_encoder.SequenceEncoder(make_clip(kind=kind))


def conditioning(clip, text):
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def assert_same_image(a, b, original, tolerance=1e-4):
    change = (b - original).abs().max()
    assert change > 1e-3
    assert (a - b).abs().max() < tolerance * change


@pytest.mark.parametrize("kind", ["pixart", "flux", "z-image", "qwen-image"])
def test_the_keyword_stands_where_it_does_in_what_the_model_is_given(make_encoder, kind):
    """Two prompts that differ in one word differ from that word's row on, but in T5, which looks both ways."""
    encoder = make_encoder(kind)
    with torch.inference_mode():
        gun, dog = (encoder.tokenize(f"a photo of a {word} on a table") for word in ("gun", "dog"))
        roles = encoder.locate(gun, "gun")
        lengths = [encoder.length(ids) for ids in (gun, dog)]
        a, b = (encoder.encode([ids], lengths[0])[0] for ids in (gun, dog))
    moved = ((a - b).abs().amax(-1) > 1e-4).nonzero().flatten().tolist()
    assert lengths[0] == lengths[1]
    assert len(roles.keyword) == 1
    if kind in ("z-image", "qwen-image"):
        assert moved[0] == roles.keyword[0]
    else:
        assert [p for p in range(len(gun)) if gun[p] != dog[p]] == list(roles.keyword)
    # the keyword, the other words, and what every prompt begins and ends with are all the rows there are
    parts = [*roles.keyword, *roles.others, roles.first_eot, *roles.sot, *roles.pads]
    assert sorted(parts) == list(range(lengths[0]))


def test_padding_that_an_encoder_gives_as_zeros_counts_for_nothing(pack, make_encoder):
    """Wan, Cosmos and AuraFlow get 512 or 256 rows, of which a prompt fills a few."""
    encoder, ops = make_encoder("cosmos"), pack.ops
    captions, keep = ["a dog on a beach", "a woman reading a book"], ("a dog",)
    with torch.inference_mode():
        kept = ops.closed_form.preserve.keep_moment(captions, encoder)
        rows = [encoder.encode([ids], 512)[0].double() for ids in map(encoder.tokenize, captions)]
        assert all(len(z) == 512 and 5 < z.any(1).sum() < 12 for z in rows)
        expected = sum(sum(torch.outer(k, k) for k in z if k.any()) / z.any(1).sum() for z in rows) / 2
        torch.testing.assert_close(kept.moment, expected)
        settings = ops.closed_form.erase.EraseSettings(metric=False, templates=False)
        pairs = ops.text.concepts.parse_concepts("a gun -> an umbrella")
        given = dict(family="cosmos", captions=captions)
        delta, report = ops.closed_form.erase.erase(pairs, keep, {"context": encoder}, settings, **given)
    figures = [*report.kept.values(), *report.moved.values(), *delta.info.measured.values()]
    assert all(0 <= figure < 2 for figure in figures)


@pytest.mark.parametrize(
    ("kind", "sot", "tail", "pads"),
    [("pixart", 0, 1, 0), ("flux", 0, 1, True), ("z-image", 3, 5, 0), ("qwen-image", 0, 5, 0)],
)
def test_templates_and_padding_have_parts_of_their_own(make_encoder, kind, sot, tail, pads):
    encoder = make_encoder(kind)
    with torch.inference_mode():
        ids = encoder.tokenize("a gun")
        roles = encoder.locate(ids, "a gun")
    assert len(roles.sot) == sot
    assert len(roles.others) + 1 == tail
    assert bool(roles.pads) == bool(pads)
    assert all(ids[p] == encoder.pad for p in roles.pads)


def test_a_concept_is_found_at_the_beginning_and_within_a_sentence(make_encoder):
    encoder = make_encoder("z-image")
    for text in ("a gun", "a photo of a gun", "a gun beside a gun"):
        roles = encoder.locate(encoder.tokenize(text), "a gun")
        assert len(roles.keyword) == 2 * text.count("gun")


def test_weights_and_inversions_are_literal_or_refused(pack, make_encoder):
    encoder = make_encoder("flux")
    assert len(set(encoder.tokenize("(gun:1.5)"))) > len(set(encoder.tokenize("gun")))
    assert all(weight == 1.0 for _, weight in encoder.tokens[encoder.tokenize("(gun:1.5)")]["t5xxl"][0])
    with pytest.raises(pack.ops.text.tokens.TokenError, match="textual inversion"):
        encoder.tokenize("embedding:bad")


LINES = [  # a line of the concepts widget, and the same text in a prompt
    (r"saber \(fate\)", r"saber \(fate\)"),
    (r'"\(a\) gun \(toy: 1.2\)"', r"\(a\) gun \(toy: 1.2\)"),
    ("(a gun:1.3)", "a gun"),
    ("[[a gun]]", "a gun"),
    ("C# & R2-D2", "C# & R2-D2"),
    ('"a red, old gun"', "a red, old gun"),
]


@pytest.mark.parametrize("kind", ["sd1", "sdxl", "pixart", "sd3", "z-image", "qwen-image", "hidream"])
def test_a_concept_has_the_tokens_of_the_same_text_in_a_prompt(pack, make_clip, kind):
    clip, host = make_clip(kind=kind, width=4096 if kind == "sd3" else 32), pack.module.nodes.host
    encoders = {}
    for name in clip.tokenize(""):
        if name in ("l", "g"):
            encoders[name] = host.encoders.ClipEncoder(clip, [name])
        else:
            encoders[name] = host.sequence_encoder.SequenceEncoder(clip, name)
    for line, prompt in LINES:
        (pair,) = pack.ops.text.concepts.parse_concepts(line)
        for name, encoder in encoders.items():
            ids = tuple(token for token, *_ in clip.tokenize(prompt)[name][0])
            for text in (pair.concept, prompt):
                assert encoder.tokenize(text) == ids, (name, text)
            sentence = encoder.tokenize(f"a photo of {pair.concept} on a wall")
            assert encoder.locate(sentence, pair.concept).keyword


@pytest.mark.parametrize(
    ("kind", "config", "options", "shape"),
    [("flux", "Flux", FLUX, (1, 16, 8, 8)), ("pixart", "PixArtSigma", PIXART, (1, 4, 48, 48))],
)
def test_t5_from_the_node_to_the_latents(run, make_model, make_clip, sample, kind, config, options, shape, inputs):
    model, clip = make_model(config=config, options=options), make_clip(kind=kind)
    erased, delta, report, _ = run("TRCEErase", model=model, clip=clip, **inputs)
    assert delta.info.measured["moved_keyword"] < 0.3
    assert delta.info.measured["moved_first_eot"] < 0.3
    assert set(delta.maps) == {"context", *(["pooled"] if kind == "flux" else [])}
    gun, empty = conditioning(clip, "a gun"), conditioning(clip, "")

    def mapped(cond):
        ((c, extra),) = cond
        maps = {"pooled_output": delta.maps["pooled"].apply(extra["pooled_output"])} if "pooled" in delta.maps else {}
        return [[delta.context_map.apply(c), {**extra, **maps}]]

    images = [
        sample(*prompts, shape=shape)
        for prompts in ((erased, gun, empty), (model, mapped(gun), mapped(empty)), (model, gun, empty))
    ]
    assert_same_image(*images)
    (applied,) = run("TRCEApplyDelta", model=model, delta=delta, clip=clip)
    assert torch.equal(sample(applied, gun, empty, shape=shape), images[0])
    with pytest.raises(ValueError, match="another text encoder"):
        run("TRCEApplyDelta", model=model, delta=delta, clip=make_clip(kind=kind, seed=1))


@contextmanager
def behind_the_norm(model, context_map):
    """T on what comes out of the model's own norm."""
    norm = model.model.diffusion_model.cap_embedder[0]
    hook = norm.register_forward_hook(lambda module, args, out: context_map.apply(out))
    try:
        yield
    finally:
        hook.remove()


def test_a_language_model_behind_a_norm_from_the_node_to_the_latents(
    pack, run, make_model, make_clip, sample, tmp_path, inputs
):
    model, clip, shape = make_model(config="ZImage", options=ZIMAGE), make_clip(kind="z-image"), (1, 16, 8, 8)
    erased, delta, *_ = run("TRCEErase", model=model, clip=clip, **inputs)
    assert (delta.info.family, delta.info.space) == ("z-image", "post-norm")
    norm = pack.host.readers.find_text_readers(model).streams["context"].norm
    gun, umbrella, empty = (conditioning(clip, text) for text in ("a gun", "an umbrella", ""))
    last = norm(gun[0][0][0, -1]), norm(umbrella[0][0][0, -1])
    assert (delta.context_map.apply(last[0]) - last[1]).norm() < 0.3 * (last[0] - last[1]).norm()

    original, patched = sample(model, gun, empty, shape=shape), sample(erased, gun, empty, shape=shape)
    with behind_the_norm(model, delta.context_map):
        mapped = sample(model, gun, empty, shape=shape)
    assert_same_image(patched, mapped, original)

    pack.ops.delta.file.save_delta(delta, tmp_path / "delta.safetensors")
    loaded = pack.ops.delta.file.load_delta(tmp_path / "delta.safetensors")
    (applied,) = run("TRCEApplyDelta", model=model, delta=loaded, clip=clip)
    assert torch.equal(sample(applied, gun, empty, shape=shape), patched)
    with pytest.raises(ValueError, match="another text encoder"):  # for the norm belongs to it
        run("TRCEApplyDelta", model=make_model(seed=3, config="ZImage", options=ZIMAGE), delta=loaded, clip=clip)


def test_sd3_learns_a_map_for_each_of_its_encoders(run, make_model, make_clip, sample, inputs):
    model, clip = make_model(config="SD3", options=SD3), make_clip(kind="sd3", width=4096)
    model.model.diffusion_model.pos_embed.normal_(generator=torch.Generator().manual_seed(3))
    erased, delta, *_ = run("TRCEErase", model=model, clip=clip, **inputs)
    widths = {kind: context_map.width for kind, context_map in delta.maps.items()}
    assert widths == {"context": 4096, "pooled": 80, "clip": 80}
    assert delta.info.measured["moved_clip"] < 0.3
    gun, empty = conditioning(clip, "a gun"), conditioning(clip, "")

    def mapped(cond):
        ((c, extra),) = cond
        of_clip = torch.nn.functional.pad(delta.maps["clip"].apply(c[:, :77, :80]), (0, 4096 - 80))
        c = torch.cat([of_clip, delta.context_map.apply(c[:, 77:])], 1)
        return [[c, {**extra, "pooled_output": delta.maps["pooled"].apply(extra["pooled_output"])}]]

    image = dict(shape=(1, 16, 8, 8))
    assert_same_image(
        sample(erased, gun, empty, **image),
        sample(model, mapped(gun), mapped(empty), **image),
        sample(model, gun, empty, **image),
    )


def test_an_encoder_that_was_left_out_is_missed(pack, make_clip):
    clip = make_clip(kind="sd3")
    clip.cond_stage_model.t5xxl = None  # as when only CLIP-L and CLIP-G are loaded
    with pytest.raises(pack.host.errors.HostError, match="without its t5xxl text encoder"):
        pack.module.nodes.host.sequence_encoder.SequenceEncoder(clip)


def test_hidream_learns_a_map_for_the_layers_of_its_llama(run, make_model, make_clip, sample, inputs):
    model, clip = make_model(config="HiDream", options=HIDREAM), make_clip(kind="hidream")
    erased, delta, *_ = run("TRCEErase", model=model, clip=clip, **inputs)
    widths = {kind: context_map.width for kind, context_map in delta.maps.items()}
    assert widths == {"context": 32, "pooled": 80, "llama": 96}
    assert delta.info.measured["moved_llama"] < 0.3

    gun, umbrella, dog, empty = (conditioning(clip, text) for text in ("a gun", "an umbrella", "a dog", ""))
    a, b, kept = (cond[0][1]["conditioning_llama3"][0] for cond in (gun, umbrella, dog))
    T = delta.maps["llama"]
    last = [sum(t != 128009 for t, _ in clip.tokenize(x)["llama"][0]) - 1 for x in ("a gun", "an umbrella", "a dog")]
    for layer in HIDREAM["llama_layers"]:
        concept, safe, dog_word = (x[layer, p] for x, p in zip((a, b, kept), last))
        way, left, moved = (x.norm() for x in (concept - safe, T.apply(concept) - safe, T.shift(dog_word)))
        assert left < 0.5 * way and moved < 0.5 * way, (layer, left / way, moved / way)

    def mapped(cond):
        ((c, extra),) = cond
        maps = {"pooled_output": "pooled", "conditioning_llama3": "llama"}
        texts = {key: delta.maps[kind].apply(extra[key]) for key, kind in maps.items()}
        return [[delta.context_map.apply(c), {**extra, **texts}]]

    image = dict(shape=(1, 16, 8, 8))
    images = [
        sample(*prompts, **image)
        for prompts in ((erased, gun, empty), (model, mapped(gun), mapped(empty)), (model, gun, empty))
    ]
    assert_same_image(*images)


def test_a_llama_with_fewer_layers_than_the_model_reads_is_refused(run, make_model, make_clip, inputs):
    model = make_model(config="HiDream", options=HIDREAM | dict(llama_layers=[1, 4]))
    with pytest.raises(ValueError, match="gives 4 layers of llama text and 'model' reads layer 4"):
        run("TRCEErase", model=model, clip=make_clip(kind="hidream"), **inputs)
