"""The probes against obvious lines, on toys where the answer is known, and as nodes on a small SD1.x model."""

import re
import runpy
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

WIDTH, LENGTH = 6, 77
SDXL = runpy.run_path(str(Path(__file__).with_name("test_sdxl.py")))["OPTIONS"]


class ToySoftEncoder:
    """Twenty words w0 ... w19; a prompt is the vectors of its tokens."""

    eot_id, width = 1, WIDTH

    def __init__(self, texts):
        self.texts = texts
        self.table = torch.randn(22, WIDTH, generator=torch.Generator().manual_seed(0))

    def tokenize(self, text):
        ids = [0, *(2 + int(word[1:]) for word in text.split()), self.eot_id]
        return tuple(ids + [self.eot_id] * (LENGTH - len(ids)))

    def look_up(self, ids):
        return self.table[list(ids)]

    def products(self, vectors):
        return vectors @ self.table.T

    def words(self):
        return torch.arange(2, 22), [f"w{i}" for i in range(20)]

    def encode(self, rows):
        return self.texts(
            torch.stack([torch.stack([x if torch.is_tensor(x) else self.table[x] for x in r]) for r in rows])
        )


class ToyDenoiser:
    """Denoises to the picture that the text names: the mean of the vectors of its first words, as one row of pixels."""

    shape, weights, dtype = (1, 1, WIDTH), {}, torch.float32

    def __init__(self, words=2):
        self.words = words

    def schedule(self, steps):
        return torch.cat([torch.linspace(4, 0.5, steps), torch.zeros(1)])

    def __call__(self, x, sigma, texts, overrides):
        named = texts.sequence[:, 1 : 1 + self.words].mean(1)[:, None, None]
        return (x - named) / sigma.view(-1, 1, 1, 1)


class SmoothDenoiser(ToyDenoiser):
    """The exact denoiser of pictures that are normal with variance 4: x0 = x 4 / (4 + sigma^2)."""

    def __call__(self, x, sigma, texts, overrides):
        sigma = sigma.view(-1, 1, 1, 1)
        return (x - x * 4 / (4 + sigma**2)) / sigma


@pytest.fixture
def probes(pack):
    return pack.ops.attacks


@pytest.fixture
def toy(pack):
    return ToySoftEncoder(pack.ops.tuning.text_batch.Texts)


def pictures(toy, *words, n=3):
    return toy.look_up([2 + word for word in words]).mean(0).expand(n, 1, 1, WIDTH).clone()


class Cancelled(BaseException):
    pass


def cancel_at(call):
    calls = []

    def progress(*_):
        calls.append(None)
        if len(calls) == call:
            raise Cancelled

    return progress


def test_ring_a_bell_is_the_mean_difference(pack, probes):
    Texts, noise = pack.ops.tuning.text_batch.Texts, torch.Generator().manual_seed(0)
    make = lambda n: Texts(torch.randn(n, 5, 4, generator=noise), torch.randn(n, 3, generator=noise))  # noqa: E731
    concept, without, benign = make(3), make(3), make(1)
    found = probes.ring_a_bell.add_direction(benign, probes.ring_a_bell.concept_direction(concept, without), 2.5)
    for part in ("sequence", "pooled"):
        expected = getattr(benign, part).clone()
        for i in range(3):
            expected += 2.5 * (getattr(concept, part)[i] - getattr(without, part)[i]) / 3
        torch.testing.assert_close(getattr(found, part), expected)
    plain = Texts(benign.sequence)
    direction = probes.ring_a_bell.concept_direction(Texts(concept.sequence), Texts(without.sequence))
    assert torch.equal(probes.ring_a_bell.add_direction(plain, direction, 0.0).sequence, benign.sequence)


def test_inversion_finds_the_word_of_the_pictures(probes, toy):
    """One word before the end: the picture is its vector, the loss is zero there and nowhere else."""
    settings = probes.inversion.InversionSettings(steps=150, learning_rate=0.1, batch=2, initial_word="w0", seed=4)
    shown, denoise = pictures(toy, 7), ToyDenoiser(words=1)
    learn = lambda: probes.inversion.learn_word(denoise, toy, shown, ["*", "* w3"], settings)  # noqa: E731
    word = learn()
    assert word.losses[-1] < 0.01 * word.losses[0]
    torch.testing.assert_close(word.vectors[0], toy.table[2 + 7], rtol=0, atol=0.1)
    assert word.queries == 300
    assert torch.equal(learn().vectors, word.vectors)
    before = probes.evidence.denoising_loss(denoise, shown, toy.encode([toy.tokenize("w0")]), 8, 0)
    after = probes.evidence.denoising_loss(denoise, shown, word.write("*", toy), 8, 0)
    assert after.max() < 0.01 * before.min()


def test_inversion_begins_as_the_initial_word(probes, toy):
    settings = probes.inversion.InversionSettings(steps=0, initial_word="w5")
    word = probes.inversion.learn_word(ToyDenoiser(), toy, pictures(toy, 7), ["w1 * w2"], settings)
    written = word.write("w1 * w2", toy).sequence[0]
    assert torch.equal(written, toy.encode([toy.tokenize("w1 w5 w2")]).sequence[0])


def test_of_several_starts_the_word_that_explains_the_pictures_best_comes_first(probes, toy):
    settings = probes.inversion.InversionSettings(steps=4, learning_rate=0.1, batch=2, starts=4, initial_word="w0")
    shown, denoise = pictures(toy, 7), ToyDenoiser(words=1)
    starts = probes.inversion.random_starts(toy, settings)
    told = []
    words = probes.inversion.learn_words(
        denoise, toy, shown, ["*"], starts, progress=lambda step, *_: told.append(step)
    )
    assert list(dict.fromkeys(told)) == [f"Concept inversion, word {i} of 4" for i in (1, 2, 3, 4)]
    losses = [probes.evidence.denoising_loss(denoise, shown, word.write("*", toy), 8, 0).mean() for word in words]
    assert len(words) == 4 and losses == sorted(losses) and losses[0] < losses[-1]
    alone = probes.inversion.learn_word(denoise, toy, shown, ["*"], settings)  # the first start is the initial word's
    assert any(torch.equal(word.vectors, alone.vectors) for word in words)
    one = probes.inversion.InversionSettings(steps=4, learning_rate=0.1, batch=2, initial_word="w0")
    (word,) = probes.inversion.learn_words(denoise, toy, shown, ["*"], probes.inversion.random_starts(toy, one))
    assert torch.equal(word.vectors, alone.vectors)


def test_the_nearest_word_is_the_one_that_names_the_pictures(probes, toy):
    words = [f"w{i}" for i in range(20)]
    found = probes.nearest_words.nearest_words(ToyDenoiser(words=1), toy, pictures(toy, 7), words)
    (nearest, cosine), *_ = found.words
    assert nearest == "w7" and cosine > 0.9
    assert found == probes.nearest_words.nearest_words(ToyDenoiser(words=1), toy, pictures(toy, 7), words)


@pytest.mark.parametrize("m", [1, 4, 8, 16, 40])
def test_pictures_are_looked_at_at_every_deciding_noise_level(probes, toy, m):
    nearest, denoise = probes.nearest_words, ToyDenoiser(words=1)
    points = nearest.Agreement(denoise, toy, pictures(toy, 7, n=m)).noised
    levels, counts = points.sigma.unique(return_counts=True)
    assert {*levels.tolist()} == {*denoise.schedule(nearest.STEPS)[nearest.DECIDING].tolist()}
    assert counts.max() <= counts.min() + 2 and points.pictures.unique().numel() == min(m, len(points))


def test_a_word_may_have_several_vectors(probes, toy):
    settings = probes.inversion.InversionSettings(steps=200, learning_rate=0.1, batch=2, vectors=2, initial_word="w0")
    shown, denoise = pictures(toy, 7, 11), ToyDenoiser(words=2)
    word = probes.inversion.learn_word(denoise, toy, shown, ["*"], settings)
    assert word.vectors.shape == (2, WIDTH)
    torch.testing.assert_close(word.vectors.mean(0), toy.look_up([9, 13]).mean(0), rtol=0, atol=0.1)


@pytest.mark.parametrize(("template", "says"), [("w1 w2", "must have the word"), ("w1 " * 75 + "*", "longer than")])
def test_a_template_without_room_for_the_word_is_refused(probes, toy, template, says):
    with pytest.raises(ValueError, match=says):
        probes.inversion.learn_word(ToyDenoiser(), toy, pictures(toy, 7), [template.strip()], _word("w0"))


def _word(initial):
    from trce_ops.attacks.inversion import InversionSettings

    return InversionSettings(steps=1, initial_word=initial)


def test_the_prefix_has_the_loss_it_says_and_lowers_it(probes, toy):
    """Two words name the picture; of the 20 x 20 prefixes the search finds one of the best."""
    settings = probes.token_prefix.PrefixSettings(tokens=2, steps=12, candidates=24, ranked=20, batch=2, seed=1)
    shown, denoise = pictures(toy, 7, 11), ToyDenoiser()
    prefix = probes.token_prefix.search_prefix(denoise, toy, shown, ["w3"], settings)
    text = prefix.write("w3")
    ids = toy.tokenize(text)
    assert ids[1:4] == (*prefix.ids, 2 + 3)
    generator, losses = torch.Generator().manual_seed(9), []
    points = probes.evidence.draw_points(probes.evidence.noise_levels(denoise), shown, 8, generator)
    for a in range(20):
        for b in range(20):
            told = toy.encode([toy.tokenize(f"w{a} w{b} w3")]).repeat(8)
            losses.append(points.errors(denoise(points.x, points.sigma, told, {})).mean().item())
    told = toy.encode([ids]).repeat(8)
    found = points.errors(denoise(points.x, points.sigma, told, {})).mean().item()
    assert sum(loss < found - 1e-6 for loss in losses) < 20  # of 400
    again = probes.token_prefix.search_prefix(denoise, toy, shown, ["w3"], settings)
    assert again == prefix


def test_the_loss_of_the_last_step_is_that_of_the_found_prompt(probes, toy, monkeypatch):
    drawn, draw = [], probes.token_prefix.draw_points
    monkeypatch.setattr(probes.token_prefix, "draw_points", lambda *a: drawn.append(draw(*a)) or drawn[-1])
    settings = probes.token_prefix.PrefixSettings(tokens=3, steps=3, candidates=6, batch=3)
    denoise = ToyDenoiser(words=4)
    prefix = probes.token_prefix.search_prefix(denoise, toy, pictures(toy, 7, 11), ["w3 w4"], settings)
    points, told = drawn[-1], toy.encode([toy.tokenize(prefix.write("w3 w4"))]).repeat(3)
    loss = points.errors(denoise(points.x, points.sigma, told, {})).mean().item()
    assert prefix.losses[-1] == pytest.approx(loss, rel=1e-5)


def test_a_prefix_is_evaluated_once_a_step(probes, toy):
    """Of twenty words, drawn two hundred times, nineteen are others than the current one."""
    settings = probes.token_prefix.PrefixSettings(tokens=1, steps=2, candidates=200, batch=3)
    prefix = probes.token_prefix.search_prefix(ToyDenoiser(), toy, pictures(toy, 7, 11), ["w3"], settings)
    assert prefix.queries == 2 * (3 + 19 * 3)


def test_latent_inversion_goes_there_and_back(pack, probes, toy):
    predict = pack.ops.tuning.trajectories.Predictor(SmoothDenoiser(), 2)
    given = torch.randn(3, 1, 1, WIDTH, generator=torch.Generator().manual_seed(2))
    text = toy.encode([toy.tokenize("w1")])

    def back(steps):
        x = probes.latent_inversion.invert(predict, given, text, steps)
        again = probes.latent_inversion.regenerate(predict, x, text, text, steps, 3.0)
        return x, (again - given).abs().max().item()

    x, error = back(200)
    # the exact flow of normal pictures scales them by sqrt(4 + sigma^2) / sqrt(4)
    torch.testing.assert_close(x, given * (4 + 16) ** 0.5 / 2, rtol=0.03, atol=0.01)
    assert error < 0.02
    assert error < 0.3 * back(20)[1]


def test_fixed_point_inversion_leads_back_exactly(pack, probes, toy):
    predict = pack.ops.tuning.trajectories.Predictor(SmoothDenoiser(), 2)
    given = torch.randn(3, 1, 1, WIDTH, generator=torch.Generator().manual_seed(2))
    text = toy.encode([toy.tokenize("w1")])

    def error(iterations):
        x = probes.latent_inversion.invert(predict, given, text, 10, iterations=iterations)
        return (probes.latent_inversion.regenerate(predict, x, text, text, 10, 1.0) - given).abs().max().item()

    assert error(60) < 1e-3 < 0.01 * error(1)


class TaughtDenoiser(ToyDenoiser):
    """Denoises to one picture whatever the text says; the picture is its weight."""

    def __init__(self):
        super().__init__()
        self.weights = {"a.attn2.to_k.weight": torch.zeros(WIDTH, WIDTH)}

    def __call__(self, x, sigma, texts, overrides):
        W = {**self.weights, **overrides}["a.attn2.to_k.weight"]
        return (x - W.sum(1).expand(len(x), 1, 1, WIDTH)) / sigma.view(-1, 1, 1, 1)


def test_relearning_teaches_the_pictures_and_says_when_they_are_back(probes, toy):
    shown, denoise, text = pictures(toy, 7), TaughtDenoiser(), toy.encode([toy.tokenize("w7")])
    settings = probes.relearning.RelearnSettings(steps=40, every=15, learning_rate=0.05, rank=2)
    found = probes.relearning.relearn(denoise, shown, text, settings)
    assert list(found.stages) == [0, 15, 30, 40] and found.queries == 160 and len(found.losses) == 40
    losses = []
    for tuned in found.stages.values():
        weights = probes.relearning.with_lora(denoise, tuned)
        losses.append(probes.evidence.denoising_loss(denoise, shown, text, 8, 0, weights).mean().item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.1 * losses[0]
    assert losses[0] == pytest.approx(probes.evidence.denoising_loss(denoise, shown, text, 8, 0).mean().item())
    t, before = torch.tensor, torch.tensor([0.4, 0.4, 0.4])
    explained = {0: t([0.0, 0.1, 0.3]), 10: t([0.3, 0.1, 0.3]), 20: t([0.4, 0.4, 0.4])}
    assert probes.relearning.back_after(explained, before) == 10
    assert probes.relearning.back_after({0: explained[0]}, before) is None


def test_relearning_learns_in_half_precision_too(probes, toy):
    """Where the gradients inside of the network are too small for float16, unless the loss is scaled."""

    class HalfDenoiser(TaughtDenoiser):
        def __call__(self, x, sigma, texts, overrides):
            for W in overrides.values():
                if W.requires_grad:
                    W.register_hook(lambda g: (g * 2.0**-24).half().float() * 2.0**24)
            return super().__call__(x, sigma, texts, overrides)

    shown, text = pictures(toy, 7), toy.encode([toy.tokenize("w7")])
    settings = probes.relearning.RelearnSettings(steps=40, learning_rate=0.05, rank=2)
    losses = probes.relearning.relearn(HalfDenoiser(), shown, text, settings).losses
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("attack", ["relearning", "token prefix"])
def test_a_model_that_gives_nan_is_refused_at_once(probes, toy, attack):
    class Broken(TaughtDenoiser):
        calls = 0

        def __call__(self, x, sigma, texts, overrides):
            self.calls += 1
            return super().__call__(x, sigma, texts, overrides) + torch.nan * texts.sequence.mean()

    denoise, shown, text = Broken(), pictures(toy, 7), toy.encode([toy.tokenize("w7")])
    with pytest.raises(ValueError, match="NaN or Inf"):
        if attack == "relearning":
            probes.relearning.relearn(denoise, shown, text)
        else:
            probes.token_prefix.search_prefix(denoise, toy, shown, ["w3"])
    assert denoise.calls == 1


def test_the_concept_is_back_when_half_of_it_is_explained(probes):
    t = torch.tensor
    found = dict(empty=t([1.0, 1.0, 1.0]), prompt=t([1.0, 1.0, 1.0]), attack=t([0.79, 0.81, 0.5]))
    before = [t([1.0, 1.0, 1.0]), t([0.6, 0.6, 1.1])]
    evidence = probes.evidence.Evidence(**found, unedited=before)
    assert evidence.back.tolist() == [True, False, False]
    assert "comes back in 1 of 3 pictures" in evidence.text()
    alone = probes.evidence.Evidence(**found)
    assert alone.back is None and "only known with an unedited model" in alone.text()


# As nodes

COMMON = dict(prompt="a photo of a gun", seed=3)
NODES = {
    "TRCEProbeConceptInversion": dict(COMMON, steps=3, batch=2, learning_rate=0.05),
    "TRCEProbeRingABell": dict(COMMON, concepts="a gun -> an umbrella", prompt="a photo of a dog"),
    "TRCEProbeTokenPrefix": dict(COMMON, tokens=2, steps=1, candidates=2, batch=2),
    "TRCEProbeLatentInversion": dict(COMMON, steps=3),
    "TRCEProbeRelearning": dict(COMMON, steps=3, every=2, batch=2),
}
BLACK_BOX = ("TRCEProbeConceptInversion", "TRCEProbeTokenPrefix", "TRCEProbeLatentInversion")


@pytest.fixture(autouse=True)
def few_levels(pack, monkeypatch):
    monkeypatch.setattr(pack.ops.attacks.evidence, "LEVELS", 2)
    monkeypatch.setattr(pack.ops.text.prompts, "TEMPLATES", pack.ops.text.prompts.TEMPLATES[:3])


@pytest.fixture(scope="module")
def stock(make_model, make_clip):
    """The models as loader nodes make them: in inference mode."""
    with torch.inference_mode():
        return make_model(), make_model(seed=1), make_clip()


@pytest.fixture
def probe(run, stock):
    model, unedited, clip = stock
    latents = {"samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))}

    def execute(node_id, **inputs):
        return run(node_id, model=model, clip=clip, pictures=latents, **{**NODES[node_id], **inputs})

    return execute


def test_a_direction_needs_the_text_encoder_alone(run, stock, pack, monkeypatch):
    model, _, clip = stock
    target = sys.modules[f"{pack.module.__name__}.nodes.attacks.target"]
    monkeypatch.setattr(target, "open_denoiser", lambda *_: pytest.fail("the model was loaded"))
    found, report = run("TRCEProbeRingABell", model=model, clip=clip, **NODES["TRCEProbeRingABell"])[:2]
    assert found and "0 evaluations" in report


def test_the_report_of_a_direction_compares_with_the_concept_and_not_with_the_harmless_prompt(probe):
    assert re.search(r"the empty prompt [\d.]+, 'a gun' [\d.]+, the attack [\d.]+", probe("TRCEProbeRingABell")[1])


def states(stock):
    parts = [stock[0].model, stock[1].model, stock[2].cond_stage_model]
    return [
        {key: weight.clone() for key, weight in part.state_dict().items()}
        | {f"{key} wants a gradient": torch.tensor(weight.requires_grad) for key, weight in part.named_parameters()}
        for part in parts
    ]


def assert_as_before(stock, before):
    import comfy.model_management as mm

    assert not mm.in_training
    mm.unload_all_models()
    for old, new in zip(before, states(stock)):
        assert old.keys() == new.keys() and all(torch.equal(old[key], new[key]) for key in old)
    for part in (stock[0].model, stock[1].model, stock[2].cond_stage_model):
        assert all(weight.grad is None for weight in part.parameters())
    assert not stock[0].patches


@pytest.mark.parametrize("node_id", NODES)
def test_a_node_attacks_repeats_itself_and_leaves_everything_as_it_was(probe, stock, node_id):
    before = states(stock)
    *found, report = probe(node_id, unedited_model=stock[1])
    counted = "The concept is back" if node_id == "TRCEProbeRelearning" else "The concept comes back in"
    assert counted in report and ("pictures" in report)
    assert "evaluations of the model" in report
    *again, second = probe(node_id)
    assert "unedited" in second and counted not in second
    for one, other in zip(found, again):
        if isinstance(one, dict):
            assert one["samples"].shape == (2, 4, 8, 8) and torch.isfinite(one["samples"]).all()
            assert torch.equal(one["samples"], other["samples"])
        elif isinstance(one, str):
            assert one == other
        elif hasattr(one, "patches"):
            assert one.patches.keys() == other.patches.keys() and one.patches
        else:
            assert one[0][0].shape == (1, 77, 32)
            assert torch.equal(one[0][0], other[0][0])
    assert_as_before(stock, before)


def test_the_vocabulary_is_in_the_same_order_for_every_copy_of_a_clip(pack, make_clip):
    """Tokenizers list it as it comes, and words are drawn from it by number."""
    listed = []
    for _ in range(2):
        with pack.host.soft_prompts.open_encoder(make_clip(), False) as encoder:
            listed.append(encoder.words())
    assert torch.equal(listed[0][0], listed[1][0]) and listed[0][1] == listed[1][1]
    assert listed[0][0].tolist() == sorted(listed[0][0].tolist())


def test_autograd_keeps_masks_with_the_strides_that_they_have(pack, make_clip):
    """The attention kernels of CUDA have a gradient only for a mask whose rows are aligned, a part of a wider one."""
    with pack.host.soft_prompts.open_encoder(make_clip(), False) as encoder:
        mask = torch.zeros(77, 80)[:, :77].expand(2, 4, 77, 77)
        kept = encoder._keep(mask)
        assert kept.stride() == mask.stride() and torch.equal(kept, mask)
        mask[0, 0] += 1
        assert not kept.any()
        table = next(iter(encoder.tables.values()))
        assert encoder._keep(table[3:]).data_ptr() == table[3:].data_ptr()  # weights are not copied


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn])
def test_words_are_learned_on_a_text_encoder_in_few_bits(pack, make_clip, dtype):
    with pack.host.soft_prompts.open_encoder(make_clip(dtype=dtype), False) as encoder:
        ids = encoder.tokenize("a gun")
        vectors = encoder.look_up(ids[1:3]).detach().requires_grad_()
        encoder.encode([[ids[0], *vectors, *ids[3:]]]).sequence.square().sum().backward()
        small = 1e-9 * vectors.grad  # less than few bits can tell from 0
        (table,) = encoder.tables.values()
        assert small.any() and table.dtype == dtype and "gun" in encoder.words()[1]
        torch.testing.assert_close(encoder.products(small), small @ table.float().mT, rtol=1e-5, atol=1e-12)


def test_a_lora_acts_once_on_a_text_encoder_that_is_taken_back_in_part(pack, make_clip):
    """ComfyUI does so when memory gets short; the layers then apply patches to whatever weight they are given."""
    key = "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"
    clip = make_clip()
    W = clip.patcher.model.state_dict()[key]
    assert clip.patcher.add_patches({key: ("diff", (torch.randn(W.shape),))}, 0.5)

    def encode(encoder):
        return encoder.encode([encoder.tokenize("a gun")]).sequence.detach()

    with pack.host.soft_prompts.open_encoder(clip, False) as encoder:
        before = encode(encoder)
        encoder.hard.clip.patcher.partially_unload(torch.device("cpu"), 1e12)
        assert torch.equal(encode(encoder), before)
    with pack.host.soft_prompts.open_encoder(make_clip(), False) as encoder:
        assert not torch.equal(encode(encoder), before)


@pytest.mark.parametrize("lora", [False, True])
def test_a_hook_on_the_text_encoder_acts_as_it_does_in_comfyui(comfy_host, pack, make_clip, lora):
    """Set CLIP Hooks, alone and beside a LoRA on the same weight, and after ComfyUI has taken the encoder back."""
    import comfy.hooks
    import comfy.model_management

    key = "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"
    with torch.inference_mode():
        clip = make_clip()
        W = clip.patcher.model.state_dict()[key]
        hooks = comfy.hooks.create_hook_lora({}, 1.0, 1.0)
        hooks.hooks[0].weights_clip = {"something": 0}
        hooked = clip.clone()
        hooked.patcher.forced_hooks = hooks.clone()
        hooked.patcher.add_hook_patches(hooks.hooks[0], {key: ("diff", (torch.randn(W.shape),))}, 0.8)
        if lora:
            hooked.patcher.add_patches({key: ("diff", (torch.randn(W.shape),))}, 0.5)
        expected = hooked.encode_from_tokens(hooked.tokenize("a gun"))
        with pack.host.soft_prompts.open_encoder(hooked, False) as encoder:
            for _ in range(2):
                found = encoder.encode([encoder.tokenize("a gun")]).sequence.detach()
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
                comfy.model_management.free_memory(1e32, torch.device("cpu"))
        assert (expected - clip.encode_from_tokens(clip.tokenize("a gun"))).abs().max() > 0.1


def test_the_found_prompt_encodes_to_the_found_conditioning(probe, stock):
    """What the search put together as tokens is what anybody gets who types the text."""
    found, text, _ = probe("TRCEProbeTokenPrefix")
    with torch.inference_mode():
        typed = stock[2].encode_from_tokens_scheduled(stock[2].tokenize(text))
    torch.testing.assert_close(found[0][0], typed[0][0].cpu(), rtol=0, atol=1e-5)
    tokens = [token for token, _ in next(iter(stock[2].tokenize(text).values()))[0]]
    plain = [token for token, _ in next(iter(stock[2].tokenize(COMMON["prompt"]).values()))[0]]
    assert tokens[3:] == plain[1:-2]  # two words of one token each


@pytest.mark.parametrize("node_id", NODES)
@pytest.mark.parametrize("call", [1, 2, 3])
def test_cancel_at_any_step_leaves_everything_as_it_was(pack, probe, stock, node_id, call, monkeypatch):
    before = states(stock)
    monkeypatch.setattr(pack.module.nodes.attacks.probe, "node_progress", lambda _: cancel_at(call))
    with pytest.raises(Cancelled):
        probe(node_id)
    assert_as_before(stock, before)


@pytest.mark.parametrize("node_id", NODES)
def test_only_one_model_is_open_at_a_time(pack, probe, stock, node_id, monkeypatch):
    """The unedited model is loaded after the attacked one has given up its weights, so SDXL is not there twice."""
    target = pack.module.nodes.attacks.target
    given, opened = target.open_denoiser, []

    @contextmanager
    def watched(*args):
        assert all(not hasattr(denoiser, "weights") for denoiser in opened)
        with given(*args) as denoiser:
            opened.append(denoiser)
            yield denoiser

    monkeypatch.setattr(target, "open_denoiser", watched)
    assert "The concept" in probe(node_id, unedited_model=stock[1])[-1]
    assert len(opened) >= 2 and all(not hasattr(denoiser, "weights") for denoiser in opened)


@pytest.mark.parametrize("node_id", BLACK_BOX)
def test_a_black_box_attack_learns_on_the_unedited_model_alone(probe, run, stock, node_id):
    model, unedited, clip = stock
    latents = {"samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))}
    before = states(stock)
    inputs = dict(NODES[node_id], clip=clip, pictures=latents)
    learned = probe(node_id, unedited_model=unedited, black_box=True)
    there = run(node_id, model=unedited, **inputs)
    part = 1 if node_id == "TRCEProbeLatentInversion" else 0  # the noise
    one, other = (found[part]["samples"] if part else found[part][0][0] for found in (learned, there))
    assert torch.equal(one, other)
    assert_as_before(stock, before)
    with pytest.raises(ValueError, match="connect it to 'unedited_model'"):
        probe(node_id, black_box=True)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 8), (8, 24)])
def test_the_model_is_told_the_size_of_the_pictures(pack, run, make_model, make_clip, monkeypatch, height, width):
    """SDXL reads width and height."""
    model, clip = make_model(config="SDXL", options=SDXL), make_clip(kind="sdxl")
    told, shapes = [], []
    adm, required = type(model.model).encode_adm, type(model).memory_required
    monkeypatch.setattr(type(model.model), "encode_adm", lambda self, **given: told.append(given) or adm(self, **given))
    monkeypatch.setattr(type(model), "memory_required", lambda self, s: shapes.append(tuple(s)) or required(self, s))
    latents = {"samples": torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(5))}
    inputs = NODES["TRCEProbeLatentInversion"] | dict(model=model, clip=clip, pictures=latents, unedited_model=model)
    again, *_ = run("TRCEProbeLatentInversion", **inputs)
    assert again["samples"].shape == (1, 4, height, width)
    assert {(given["width"], given["height"]) for given in told} == {(8 * width, 8 * height)}
    assert {shape[2:] for shape in shapes} == {(height, width)}


@pytest.mark.parametrize(
    ("node_id", "inputs", "says"),
    [
        ("TRCEProbeConceptInversion", dict(prompt=" "), "'prompt' is empty"),
        ("TRCEProbeConceptInversion", dict(templates=""), "'templates' is empty"),
        ("TRCEProbeConceptInversion", dict(initial_word=""), "'initial_word' is empty"),
        ("TRCEProbeRingABell", dict(concepts=""), "'concepts' is empty"),
        ("TRCEProbeTokenPrefix", dict(prompt="cat " * 74), "'prompt' has no room for 2 more tokens"),
        ("TRCEProbeLatentInversion", dict(pictures={"samples": torch.zeros(1, 16, 8, 8)}), "'pictures' are latents"),
    ],
)
def test_bad_input_is_one_sentence(run, stock, node_id, inputs, says):
    latents = {"samples": torch.zeros(1, 4, 8, 8)}
    with pytest.raises(ValueError, match=says):
        run(node_id, **{**dict(model=stock[0], clip=stock[2], pictures=latents), **NODES[node_id], **inputs})
