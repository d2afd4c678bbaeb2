"""Tuning on ComfyUI's own classes of every family that can be tuned, at the smallest sizes that they take."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trce_ops.closed_form.erase import EraseSettings, erase
from trce_ops.delta.low_rank import ContextMap
from trce_ops.text.concepts import parse_concepts
from trce_ops.text.embeddings import Pooled
from trce_ops.tuning.factors import FUSED
from trce_ops.tuning.settings import TuneSettings
from trce_ops.tuning.text_batch import Texts
from trce_ops.tuning.tune import tune_delta

NETWORKS = runpy.run_path(str(Path(__file__).with_name("networks.py")))["NETWORKS"]
TUNED = {  # family -> config and options of its class; resolution if not 64, learning rate if not 3e-3
    "sd3": {"pos_embed_max_size": None, "num_patches": None},
    "flux": {},
    "flux2": {"in_channels": 128, "out_channels": 128, "learning_rate": 3e-4},
    "chroma": {},
    "auraflow": {},
    "pixart": {"resolution": 384},
    "cosmos-predict2": {},
    "wan": {},
    "hunyuan-video": {},
    "cogvideox": {"config": "CogVideoX_T2V"},
    "lumina2": {},
    "z-image": {},
    "qwen-image": {},
}
SETTINGS = TuneSettings(
    steps=16,
    rank=4,
    words=0,
    trajectories=4,
    draws=2,
    sampling_steps=4,
    empty_trajectories=1,
    empty_draws=2,
    keep_trajectories=2,
    keep_draws=1,
    keep_batch=1,
    batch=8,
    decay=False,
    preserve=1.0,
)


@pytest.fixture(scope="module")
def packing(comfy_host):
    return runpy.run_path(str(Path(__file__).with_name("packed_model.py")))


@pytest.fixture
def short(encoder):
    """Gives the model no padding, so that prompts have lengths of their own, and a pooled vector of 20 numbers."""

    class ShortEncoder(type(encoder)):
        pooled_width = 20

        def length(self, ids):
            return 1 + ids.index(self.eot_id)

        def pool(self, rows):
            return torch.stack([self.encode([ids], 77)[0, self.length(ids) - 1, :20] for ids in rows])

    return ShortEncoder()


@pytest.fixture(scope="module")
def build(comfy_host, fill_weights):
    """build(family, dtype) -> a MODEL of ComfyUI's own classes."""
    import comfy.model_patcher
    import comfy.supported_models

    cpu = torch.device("cpu")

    def make(name, dtype=torch.float32, as_loaded=True):
        spec, options = NETWORKS[name], dict(TUNED[name])
        for other in ("resolution", "learning_rate"):
            options.pop(other, None)
        config = options.pop("config", spec.config)
        config = getattr(comfy.supported_models, config)(spec.options | options)
        config.set_inference_dtype(dtype, None if dtype == torch.float32 else torch.float32)
        with torch.inference_mode(as_loaded):  # as a loader node makes it
            base = config.get_model({}, "", device="cpu")
            return comfy.model_patcher.ModelPatcher(fill_weights(base, 0).eval(), cpu, cpu)

    return make


@pytest.fixture
def erasing(build, pack, short):
    """erasing(family) -> MODEL, what tuning takes of it, and arguments of tune_delta."""

    def make(name, model=None, **changes):
        changes = {"learning_rate": TUNED[name].get("learning_rate", 3e-3)} | changes
        model = model or build(name)
        resolution = TUNED[name].get("resolution", 64)
        tunable, encoder = pack.host.denoiser.tunable(model, resolution), short
        pairs, settings = parse_concepts("gun -> cake"), EraseSettings(templates=False)
        encoders = {"context": encoder} | ({"pooled": Pooled(encoder)} if "pooled" in NETWORKS[name].text else {})
        readers = pack.host.readers.find_text_readers(model)
        captions = ["a dog on a street", "red water"]
        family = {"family": readers.family, "space": readers.space, "captions": captions}
        delta = erase(pairs, ("a dog",), encoders, settings, **family)[0]
        nothing = {kind: ContextMap(tuple(map(torch.zeros_like, D.factors))) for kind, D in delta.maps.items()}
        delta = replace(delta, maps=nothing)  # all that moves is then tuning's
        return delta, encoders, tunable, replace(SETTINGS, **changes)

    return make


def bits(model):
    return {name: weight.clone() for name, weight in model.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", TUNED)
def test_a_tuning_moves_the_prediction_to_the_safe_side_and_nothing_else(build, erasing, pack, name):
    model = build(name)
    before = bits(model)
    delta, report = tune_delta(*erasing(name, model))
    first, last = (sum(part) / 3 for part in (report.tuning.positions[:3], report.tuning.positions[-3:]))
    assert last > first + 0.02
    assert same(bits(model), before)
    assert not any(W.requires_grad or W.grad is not None for W in model.model.parameters())
    assert not any("forward" in vars(module) for module in model.model.modules())
    for module, change in delta.tuned.items():
        W = before[f"{module}.weight"]
        assert change.shape == W.shape
        if FUSED.search(f"{module}.weight"):  # queries stay
            assert not change.dense()[: W.shape[1]].any()
            assert change.dense()[W.shape[1] :].any()
    erased = pack.host.apply.apply_delta(model, delta, 1.0)
    assert {f"{module}.weight" for module in delta.tuned} <= erased.patches.keys()


@pytest.mark.parametrize("name", TUNED)
def test_the_same_seed_gives_the_same_bytes(erasing, name):
    (a, report), (b, _) = (tune_delta(*erasing(name, steps=3, words=2)) for _ in range(2))
    a, b = a.tuned, b.tuned
    assert report.tuning.word_evaluations and "adversarial embeddings" in report.text()
    assert all(torch.equal(x, y) for module in a for x, y in zip(a[module].factors, b[module].factors, strict=True))


@pytest.mark.parametrize("name", ["sd3", "z-image", "wan"])
def test_a_cancel_leaves_the_model_as_it_was(build, erasing, name):
    model = build(name)
    before = bits(model)

    class Cancelled(BaseException):
        pass

    def cancel(phase, done, total):
        if phase.startswith("Tuning") and done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        tune_delta(*erasing(name, model), progress=cancel)
    assert same(bits(model), before)
    assert not any("forward" in vars(module) for module in model.model.modules())


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize("large", [False, True])
def test_the_denoiser_predicts_what_the_sampler_is_given(build, pack, monkeypatch, name, large):
    """At every length of prompt, and whatever is done to get a gradient."""
    monkeypatch.setattr(pack.host.denoiser, "LARGE", 0 if large else 2e9)
    model = build(name)
    readers = pack.host.readers.find_text_readers(model)
    norm, noise = readers.streams["context"].norm, torch.Generator().manual_seed(0)
    size = TUNED[name].get("resolution", 64)
    with pack.host.denoiser.tunable(model, size).open() as denoise:
        x, sigma = denoise.noise(2, noise, denoise.schedule(4)[0]), torch.tensor([0.9, 0.5])
        pooled = torch.randn(2, 20, generator=noise) if "pooled" in NETWORKS[name].text else None
        c, lengths = torch.randn(2, 10, 24, generator=noise), torch.tensor([10, 7])
        e = denoise(x, sigma, Texts(norm(c) if norm else c, pooled, lengths), {}).detach()
    with torch.inference_mode():
        for i, length in enumerate(lengths):
            given = {"pooled_output": None if pooled is None else pooled[i : i + 1]}
            given |= {"cross_attn": c[i : i + 1, :length], "noise": x[i : i + 1], "device": "cpu", "width": size}
            conds = model.model.extra_conds(height=size, **given)
            conds = {key: cond.process_cond(batch_size=1, device="cpu", area=None).cond for key, cond in conds.items()}
            denoised = model.model.apply_model(x[i : i + 1].clone(), sigma[i : i + 1], **conds)
            torch.testing.assert_close(x[i : i + 1] - sigma[i] * e[i : i + 1], denoised, rtol=1e-3, atol=1e-4)


def gradient(pack, name, model):
    """Of a sum of predictions with respect to the keys and values of the text stream."""
    tunable = pack.host.denoiser.tunable(model, TUNED[name].get("resolution", 64))
    noise = torch.Generator().manual_seed(0)
    with tunable.open() as denoise:
        names = pack.ops.tuning.factors.choose(denoise.weights, "text", tunable.sets)
        overrides = {key: denoise.weights[key].float().requires_grad_() for key in names}
        x = denoise.noise(2, noise, denoise.schedule(4)[0])
        pooled = torch.randn(2, 20, generator=noise) if "pooled" in NETWORKS[name].text else None
        texts = Texts(torch.randn(2, 10, 24, generator=noise), pooled, torch.tensor([10, 7]))
        e = denoise(x, torch.tensor([0.9, 0.5]), texts, overrides)
        (e * torch.randn(e.shape, generator=noise)).sum().backward()
        return {key: W.grad for key, W in overrides.items()}


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize("large", [False, True])
def test_adversarial_embeddings_find_what_the_model_predicts_the_concept_for(build, pack, monkeypatch, name, large):
    """Prompts of two lengths, with padding that stays padding."""
    monkeypatch.setattr(pack.host.denoiser, "LARGE", 0 if large else 2e9)
    model = build(name)
    tuning, noise = pack.ops.tuning, torch.Generator().manual_seed(0)

    def prompts(*lengths):
        c = torch.randn(len(lengths), 10, 24, generator=noise)
        for row, length in zip(c, lengths):
            row[length:] = 0
        pooled = torch.randn(len(lengths), 20, generator=noise) if "pooled" in NETWORKS[name].text else None
        return Texts(c, pooled, torch.tensor(lengths))

    neg, safe, empty, kept = prompts(7), prompts(10), prompts(3), prompts(*[10, 8] * 6)
    with pack.host.denoiser.tunable(model, TUNED[name].get("resolution", 64)).open() as denoise:
        x, sigma = denoise.noise(2, noise, denoise.schedule(4)[0]), torch.tensor([0.9, 0.5])
        e_neg, e_safe = (denoise(x, sigma, text.repeat(2), {}).detach() for text in (neg, safe))
        points = tuning.trajectories.Points(x, sigma, torch.zeros(2, dtype=torch.long), e_neg, e_neg)
        data = tuning.data.Data(points, e_safe, points, None)
        zero = pack.ops.delta.low_rank.ContextMap((torch.zeros(24, 0), torch.zeros(0, 24)))
        trained = tuning.factors.Trained({}, 2, noise)
        source = tuning.adversarial_texts.Embeddings(tuning.data.Contexts(neg, safe, empty, kept), 0, noise)
        settings = replace(SETTINGS, words=1, word_batch=2, word_updates=10)
        predict = tuning.trajectories.Predictor(denoise, 1)
        adversary = tuning.adversary.Adversary(source, predict, trained, {"context": zero}, settings, noise)

        def distance(text):
            e = denoise(x, sigma, text.repeat(2), {}).detach()
            return tuning.losses.drift(e, e_neg).mean().item()

        learned = adversary.learned[0].vector
        before = distance(source.write(learned.detach(), 0))
        for _ in range(3):
            _, found = adversary.learn(data)
        assert distance(found[:1]) < 0.9 * before
        assert learned.grad.any(1).all()  # by the tokens, and by the pooled vector
        assert found.lengths.tolist() == [7, 7] and not found.sequence[:, 7:].any()


def apart(a, b):
    square = sum((a[key] - b[key]).square().sum() for key in a)
    return (square / sum(b[key].square().sum() for key in a)).sqrt().item()


@pytest.mark.parametrize("name", TUNED)
def test_blocks_that_are_computed_again_give_the_same_gradient(build, pack, monkeypatch, name):
    at_once = gradient(pack, name, build(name))
    monkeypatch.setattr(pack.host.denoiser, "LARGE", 0)
    assert apart(gradient(pack, name, build(name)), at_once) < 1e-5


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize("large", [False, True])
def test_the_gradient_goes_through_weights_of_eight_bits(build, pack, monkeypatch, name, large):
    monkeypatch.setattr(pack.host.denoiser, "LARGE", 0 if large else 2e9)
    low = build(name, torch.float8_e4m3fn)
    twin = build(name)
    with torch.inference_mode():
        twin.model.load_state_dict({key: W.float() for key, W in low.model.state_dict().items()})
    assert apart(gradient(pack, name, low), gradient(pack, name, twin)) < 1e-2


@pytest.mark.parametrize("name", ["sd3", "flux", "qwen-image"])
def test_the_gradient_goes_through_packed_weights(build, pack, packing, name):
    keys = [key for key, W in build(name).model.named_parameters() if key.endswith("weight") and large(W)]
    packed = packing["packed_copy"](build(name, as_loaded=False), keys)
    plain = packing["rounded_copy"](build(name, as_loaded=False), keys)
    assert apart(gradient(pack, name, packed), gradient(pack, name, plain)) < 1e-2


def large(W):
    return W.ndim == 2 and W.shape[1] % 32 == 0


@pytest.mark.parametrize("name", ["sd3", "flux", "wan"])
def test_the_gradient_goes_through_fp8_with_a_scale(build, pack, quantised, name):
    layers = tuple(key.removesuffix(".weight") for key, W in build(name).model.named_parameters() if ".qkv." in key)
    layers = layers or ("cross_attn.k", "cross_attn.v")
    model = build(name)
    twin = build(name)
    with torch.inference_mode():
        quantised(model.model, layers)
        for key, W in model.model.named_parameters():
            if hasattr(W.data, "dequantize") and type(W.data) is not torch.Tensor:
                twin.model.get_parameter(key).data.copy_(W.data.dequantize())
    assert apart(gradient(pack, name, model), gradient(pack, name, twin)) < 1e-2


@pytest.mark.parametrize("name", TUNED)
def test_load_lora_gives_what_the_delta_gives(build, erasing, pack, run, name):
    import comfy.sd

    model = build(name)
    delta, _ = tune_delta(*erasing(name, model, steps=3))
    erased = pack.host.apply.apply_delta(model, delta, 1.0)
    lora, _ = run("TRCEDeltaToLoRA", model=model, delta=delta)
    with torch.inference_mode():
        loaded, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
        assert loaded.patches and loaded.patches.keys() <= erased.patches.keys()
        weights, before = (pack.host.weights.ModelWeights(m) for m in (loaded, model))
        for key in erased.patches:
            expected = pack.host.weights.ModelWeights(erased).patched(key)
            torch.testing.assert_close(weights.patched(key), expected, rtol=1e-4, atol=1e-5)
        assert any(not torch.equal(weights.patched(key), before.base(key)) for key in erased.patches)


@pytest.fixture
def sd3(make_model, make_clip, run, trce_settings, few_captions, pack, monkeypatch):
    """sd3(kind of CLIP, width of the pooled vector) -> MODEL, CLIP and what TRCE Erase gives, with two steps."""
    module = pack.module.nodes.settings
    fewer = dict(draws=1, sampling_steps=3, empty_trajectories=1, empty_draws=2, keep_trajectories=3, keep_draws=1)
    monkeypatch.setattr(module, "QUICK", replace(module.QUICK, **fewer))

    def execute(kind, pooled):
        options = NETWORKS["sd3"].options | TUNED["sd3"] | dict(adm_in_channels=pooled)
        options |= dict(
            context_embedder_config=dict(target="torch.nn.Linear", params=dict(in_features=4096, out_features=128))
        )
        model, clip = make_model(config="SD3", options=options), make_clip(kind=kind, width=4096)
        small = dict(steps=2, trajectories=2, batch=1, metric=False)
        settings = trce_settings(closed_form=dict(templates=False, metric=False), tuning=small, resolution=64)
        inputs = dict(concepts="a gun -> an umbrella", keep="a dog", mode="tuned", settings=settings)
        return model, clip, run("TRCEErase", model=model, clip=clip, **inputs)

    return execute


def test_sd3_without_t5_has_one_map_on_weights_and_adversarial_words(sd3, pack):
    model, clip, (erased, delta, report, _) = sd3("sd3 with CLIP-L alone", 32 + 1280)
    assert delta.context_map.width == 32 and delta.maps.keys() == {"context", "pooled"}
    assert delta.tuned and "learn adversarial words" in report
    key = "diffusion_model.context_embedder.weight"
    before, after = (pack.host.weights.ModelWeights(m).patched(key) for m in (model, erased))
    assert not torch.equal(before[:, :32], after[:, :32])
    assert torch.equal(before[:, 32:], after[:, 32:])


def test_sd3_with_t5_is_tuned_on_both_kinds_of_rows(sd3):
    model, clip, (erased, delta, report, _) = sd3("sd3", 32 + 48)
    assert delta.maps.keys() == {"context", "clip", "pooled"} and delta.tuned
    assert "learn adversarial embeddings" in report


def test_the_rows_of_clip_have_the_metric_of_the_columns_that_read_them(sd3, pack):
    model, clip, (_, delta, *_) = sd3("sd3", 32 + 48)
    lent = pack.host.lend.lend(model, clip)
    width = lent["encoders"]["clip"].width
    W = model.model.state_dict()["diffusion_model.context_embedder.weight"]
    expected = pack.ops.closed_form.metric.gram([W], 1, width)
    torch.testing.assert_close(lent["metrics"]()["clip"], expected)


def test_what_cannot_be_tuned_is_refused_with_the_reason(pack, make_model):
    network = NETWORKS["hidream"]
    model = make_model(config="HiDream", options=network.options)
    with pytest.raises(pack.host.errors.HostError, match="hidream model, which reads its text from several encoders"):
        pack.host.denoiser.tunable(model, 64)
