"""EraseAnything: its losses against plain lines, and its training on ComfyUI's own classes at their smallest."""

import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trce_ops.methods import erase_anything
from trce_ops.methods.erase_anything import EraseAnythingSettings
from trce_ops.methods.registry import MethodError, erase_with
from trce_ops.text.concepts import parse_concepts
from trce_ops.text.prompts import PromptPair
from trce_ops.tuning.data import Contexts, Data, attention_to_others
from trce_ops.tuning.factors import FUSED, TuningError
from trce_ops.tuning.prompts import encode_prompts, with_others
from trce_ops.tuning.text_batch import Texts
from trce_ops.tuning.trajectories import Points, Predictor

HERE = Path(__file__)
FLOW = runpy.run_path(str(HERE.with_name("test_flow_tuning.py")))
TOY = runpy.run_path(str(HERE.with_name("test_tuning.py")))
NETWORKS, bits, same, apart = FLOW["NETWORKS"], FLOW["bits"], FLOW["same"], FLOW["apart"]
build, short = FLOW["build"], FLOW["short"]
JOINT = ("sd3", "flux", "flux2", "chroma", "hunyuan-video", "qwen-image")
PAIRS = parse_concepts("a gun | pistol -> a cake\nred")
SMALL = EraseAnythingSettings(steps=6, trajectories=3, draws=2, sampling_steps=4, resolution=64, learning_rate=1e-2)


def draw(*shape, seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_erasing_loss_is_negative_guidance_and_the_norm_of_the_attention():
    e, e_c, e_safe, e_u = draw(4, 5, 4, 3, 3)
    a = draw(5, 9).abs()
    found = erase_anything.erasing(e, a, e_c, e_safe, e_u, eta=2.0, weight=0.3)
    for i in range(5):
        goal = e_u[i] - 2.0 * (e_c[i] - e_u[i])
        norm = math.sqrt(sum(share.item() ** 2 for share in a[i]))
        assert found[i].item() == pytest.approx(((e[i] - goal) ** 2).mean().item() + 0.3 * norm, rel=1e-5)


def test_the_contrast_is_info_nce_towards_the_irrelevant_and_away_from_the_synonym():
    a, others = draw(5, 9).abs(), draw(5, 4, 9, seed=4).abs()
    found = erase_anything.reverse_contrast(a, others)
    for i in range(5):
        alike = [(a[i] @ w / (a[i].norm() * w.norm())).item() for w in others[i]]
        synonym, *irrelevant = (math.exp(cosine / 0.07) for cosine in alike)
        assert found[i].item() == pytest.approx(-math.log(sum(irrelevant) / (synonym + sum(irrelevant))), abs=1e-4)
    like_synonym = erase_anything.reverse_contrast(others[:, 0], others)
    assert (like_synonym > erase_anything.reverse_contrast(others[:, 1], others)).all()


def data_of(m=6):
    points = [
        Points(draw(m, 4, 3, 3, seed=s), torch.arange(1.0, m + 1), torch.arange(m) % 2, *draw(2, m, 4, 3, 3, seed=s))
        for s in (5, 6)
    ]
    data = Data(points[0], draw(m, 4, 3, 3, seed=7), points[0], points[1], draw(m, 4, 9, seed=8).abs())
    neg, keep = Texts(draw(2, 7, 24, seed=9), marks=torch.eye(2, 7)), Texts(draw(2, 7, 24, seed=10))
    return data, Contexts(neg, neg, keep[:1], keep, None)


def test_steps_erase_and_preserve_in_turn_with_the_unedited_model_as_the_goal():
    data, contexts = data_of()
    chosen = EraseAnythingSettings(steps=6, negative_guidance=2.0)
    terms = erase_anything.objective(chosen)(data, contexts, {}, chosen.tuning(), torch.Generator().manual_seed(0))
    steps = list(terms)
    assert [len(step) for step in steps] == [1, 2, 1, 2, 1, 2]
    assert sorted(step[0].sigma.item() for step in steps) == [1, 2, 3, 4, 5, 6]
    e, a = draw(1, 4, 3, 3), draw(1, 9).abs()
    for number, step in enumerate(steps):
        i = int(step[0].sigma) - 1
        points = data.erase
        assert torch.equal(step[0].x[0], points.x[i])
        assert torch.equal(step[0].texts.sequence[0], contexts.neg.sequence[points.prompts[i]])
        if number % 2 == 0:
            goal = points.e_u[i] - 2.0 * (points.e[i] - points.e_u[i])
            assert torch.isclose(step[0].value(e, 0, a), ((e[0] - goal) ** 2).mean() + 1e-3 * a.norm())
            continue
        expected = 0.1 * erase_anything.reverse_contrast(a, data.attention[i : i + 1])[0]
        assert torch.isclose(step[0].value(e, 0, a), expected)
        j = int(step[1].sigma) - 1
        assert torch.equal(step[1].texts.sequence[0], contexts.keep.sequence[data.keep.prompts[j]])
        assert torch.isclose(step[1].value(e, 0, a), 0.1 * ((e[0] - data.keep.e[j]) ** 2).mean())


def test_other_words_are_another_name_and_three_that_name_no_concept():
    found = erase_anything.other_words(PAIRS, ("a dog", "a red gun", "a very long line of words to keep"), 0)
    assert [words[0] for words in found.values()] == ["pistol", "a gun", "red"]
    assert len({words[1:] for words in found.values()}) == 1
    irrelevant = found["red"][1:]
    assert len(set(irrelevant)) == 3 and "a dog" in irrelevant
    assert set(irrelevant) <= {"a dog", *erase_anything.EVERYDAY}
    assert erase_anything.other_words(parse_concepts("a gun"), (), 0)["a gun"][0] == "gun"


def test_other_words_stand_in_the_concepts_place_and_are_marked(encoder):
    prompts = [
        PromptPair("the gunner has a gun", "", "a gun", "a gun", ""),
        PromptPair("a striped gun", "", "a gun", "gun", ""),
    ]
    others = with_others(prompts, {"a gun": ("gun", "a long rifle")})
    assert [p.source for p in others] == ["the gunner has gun", "the gunner has a long rifle"] + [
        "a striped gun",
        "a striped long rifle",
    ]
    contexts = encode_prompts(prompts, [], {"context": encoder}, lambda *_: None, others)
    for texts, said in ((contexts.neg, prompts), (contexts.others, others)):
        for row, prompt in zip(texts.marks, said):
            ids = encoder.tokenize(prompt.source)
            mine = encoder.tokenize(prompt.keyword)
            mine = mine[1 : mine.index(encoder.eot_id)]
            marked = row.nonzero()[:, 0].tolist()
            assert tuple(ids[p] for p in marked) == mine and row.sum() == len(mine)


def test_behind_clips_rows_both_kinds_of_tokens_are_marked(encoder):
    class Wider(type(encoder)):
        width = 30

    prompt = PromptPair("a photo of gun", "", "gun", "gun", "")
    encoders = {"context": Wider(), "clip": encoder}
    contexts = encode_prompts([prompt], [], encoders, lambda *_: None, [prompt])
    where = list(encoder.locate(encoder.tokenize(prompt.source), "gun").keyword)
    assert contexts.neg.marks[0].nonzero()[:, 0].tolist() == where + [77 + p for p in where]


def test_every_prompt_has_clips_rows_where_clip_reads_two_of_them_alike(encoder):
    class Cased(type(encoder)):  # as T5 is
        width = 30

        def tokenize(self, text):
            return super().tokenize(text.replace("A", "big a"))

    encoders = {"context": Cased(), "clip": encoder}
    contexts = encode_prompts(
        [PromptPair("gun", "A cake", "gun", "gun", "A cake")], ["a cake"], encoders, lambda *_: None
    )
    of_clip = encoder.encode([encoder.tokenize("a cake")], 77)[0]
    for texts in (contexts.safe, contexts.keep):
        assert texts.sequence.shape[1] == 2 * 77
        assert torch.equal(texts.sequence[0, :77, :24], of_clip) and not texts.sequence[0, :77, 24:].any()


def test_marks_go_with_their_texts():
    marks = torch.tensor([[0, 1, 0], [1, 0, 1.0]])
    texts = Texts(draw(2, 3, 4), None, torch.tensor([3, 2]), marks)
    assert torch.equal(texts[torch.tensor([1, 0])].marks, marks.flip(0))
    assert torch.equal(texts[:1].repeat(3).marks, marks[:1].expand(3, 3))
    assert torch.equal(texts.to(torch.device("cpu")).marks, marks)
    both = Texts.cat([texts, Texts(draw(1, 5, 4), None, torch.tensor([5]))])
    assert torch.equal(both.marks, torch.nn.functional.pad(marks, (0, 2, 0, 1)))
    assert [(rows.tolist(), same.marks.tolist()) for rows, same in texts.by_length()] == [
        ([1], [[1, 0]]),
        ([0], [[0, 1, 0]]),
    ]


def test_attention_to_others_is_by_point_and_word():
    class Attending:
        def attending(self, x, sigma, texts, overrides):
            assert not overrides
            return x, x.flatten(1)[:, :1] + texts.sequence[:, 0]

    points = Points(torch.arange(3.0).view(3, 1, 1, 1), torch.ones(3), torch.tensor([1, 0, 1]), *draw(2, 3, 1, 1, 1))
    neg, others = Texts(draw(2, 1, 1)), Texts(torch.tensor([10.0, 20, 30, 40]).view(4, 1, 1))
    contexts = Contexts(neg, neg, neg[:1], None, others)
    found = attention_to_others(Predictor(Attending(), 2), points, contexts, lambda *_: None)
    assert found[..., 0].tolist() == [[30, 40], [11, 21], [32, 42]]


def test_a_model_that_does_not_tell_its_attention_is_refused():
    with pytest.raises(TuningError, match="does not tell how much its picture attends"):
        Predictor(TOY["ToyDenoiser"](), 1).attention(draw(1, 4, 3, 3), torch.ones(1), Texts(draw(1, 7, 24)))


def test_a_unet_is_refused_before_anything_is_computed(encoder):
    model, log = TOY["lend"](TOY["ToyDenoiser"]())
    with pytest.raises(MethodError, match="queries and keys of a text stream .* has only paper, text, cross, wide"):
        erase_with("erase-anything", PAIRS, (), {"context": encoder}, family="sd1", model=lambda _: model)
    assert not log


def given(name, denoise, n=2):
    """Points, and prompts of two lengths with two marked tokens each."""
    noise = torch.Generator().manual_seed(0)
    x = denoise.noise(n, noise, denoise.schedule(4)[0])
    pooled = draw(n, 20) if "pooled" in NETWORKS[name].text else None
    marks = torch.zeros(n, 10)
    marks[:, 2:4] = 1
    return x, torch.tensor([0.9, 0.5]), Texts(draw(n, 10, 24), pooled, torch.tensor([10, 7]), marks)


def opened(pack, model):
    return pack.host.denoiser.tunable(model, 64).open()


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("large", [False, True])
def test_attention_is_the_softmax_of_the_blocks_written_out(build, pack, monkeypatch, name, large):
    """And it changes nothing in the prediction."""
    import comfy.ldm.modules.attention as attention

    calls = []
    original = attention.attention_pytorch

    def noting(q, k, v, heads, *args, **kwargs):
        calls.append((q.detach(), k.detach(), heads))
        return original(q, k, v, heads, *args, **kwargs)

    monkeypatch.setattr(pack.host.denoiser, "LARGE", 0 if large else 2e9)
    with opened(pack, build(name)) as denoise:
        x, sigma, texts = (part[:1] for part in given(name, denoise))
        monkeypatch.setattr(pack.host.attention, "attention_pytorch", noting)
        plain = denoise(x, sigma, texts, {}).detach()
        unwatched = list(calls)
        e, paid = denoise.attending(x, sigma, texts, {})
    torch.testing.assert_close(e, plain)
    maps = []
    for q, k, heads in unwatched:
        if q.ndim == 3:
            q, k = (z.view(1, z.shape[1], heads, -1).transpose(1, 2) for z in (q, k))
        if q.shape[2] == max(z.shape[-2] for z, _, _ in unwatched):  # not the text's or the picture's own
            scores = q.float() @ k.float().mT / q.shape[-1] ** 0.5
            text = max(10, 512 * (name == "flux2"))  # which pads its text in front
            maps.append(scores.softmax(-1).mean(1)[:, text:, text - 8 : text - 6].sum(-1))
    assert len(maps) >= 1
    torch.testing.assert_close(paid, torch.stack(maps).mean(0), rtol=1e-4, atol=1e-6)
    pixels = (x.shape[-1] // (1 if name == "flux2" else 2)) ** 2
    assert paid.shape == (1, pixels)


def test_attention_makes_no_map_of_all_tokens(pack):
    """Kernels that make none take it, as a GPU needs for large pictures."""
    q, k, v = torch.randn(3, 1, 2, 24, 16)
    watch = pack.host.attention.Watch(torch.ones(1, 8))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        watch(lambda *_: None, q, k, v, 2, skip_reshape=True)
    assert watch.end().shape == (1, 16)


def gradient(pack, name, model):
    tunable = pack.host.denoiser.tunable(model, 64)
    with tunable.open() as denoise:
        names = pack.ops.tuning.factors.choose(denoise.weights, "added", tunable.sets)
        overrides = {key: denoise.weights[key].float().requires_grad_() for key in names}
        e, paid = denoise.attending(*given(name, denoise), overrides)
        ((e * draw(*e.shape)).mean() + (paid * draw(*paid.shape)).sum()).backward()
        return {key: W.grad for key, W in overrides.items()}


@pytest.mark.parametrize("name", JOINT)
def test_blocks_that_are_computed_again_give_the_attention_the_same_gradient(build, pack, monkeypatch, name):
    at_once = gradient(pack, name, build(name))
    assert all(grad.any() for key, grad in at_once.items() if "add_q" not in key)  # no use in the last block
    monkeypatch.setattr(pack.host.denoiser, "LARGE", 0)
    assert apart(gradient(pack, name, build(name)), at_once) < 1e-5


@pytest.fixture
def erased(build, pack, short, few_captions):
    """erased(family, MODEL, ...) -> delta and report of EraseAnything, as the node makes them."""

    def run(name, model=None, progress=lambda *_: None, **changes):
        model = model or build(name)
        ours, readers = pack.ops.methods, pack.host.readers.find_text_readers(model)
        pooled = {"pooled": pack.ops.text.embeddings.Pooled(short)} if "pooled" in NETWORKS[name].text else {}
        settings = ours.erase_anything.EraseAnythingSettings(**vars(replace(SMALL, **changes)))
        return ours.registry.erase_with(
            "erase-anything",
            pack.ops.text.concepts.parse_concepts("gun | pistol -> cake"),
            ("a dog",),
            {"context": short, **pooled},
            settings,
            family=readers.family,
            space=readers.space,
            model=lambda resolution: pack.host.denoiser.tunable(model, resolution),
            progress=progress,
        )

    return run


@pytest.mark.parametrize("name", JOINT)
def test_only_queries_and_keys_of_the_text_change_and_the_model_stays(build, erased, pack, name):
    model = build(name)
    before = bits(model)
    with torch.inference_mode():  # as a node runs
        delta, report = erased(name, model)
    assert same(bits(model), before)
    assert not any("forward" in vars(module) for module in model.model.modules())
    assert report.evaluations > 0 and not delta.context_map.rank
    for module, change in delta.tuned.items():
        W = before[f"{module}.weight"]
        assert change.shape == W.shape
        assert change.dense().any() != ("add_q" in module)  # queries of the last block's text have no use
        assert any(part in module for part in ("context_block.attn.qkv", "txt_attn.qkv", "add_q_proj", "add_k_proj"))
        if FUSED.search(f"{module}.weight"):
            queries_and_keys = 2 * W.shape[1]
            assert change.dense()[:queries_and_keys].any() and not change.dense()[queries_and_keys:].any()
    applied = pack.host.apply.apply_delta(model, delta, 1.0)
    assert {f"{module}.weight" for module in delta.tuned} <= applied.patches.keys()


@pytest.mark.parametrize("name", ["flux", "qwen-image"])
@pytest.mark.parametrize("weight, kind", [("attention", 0), ("contrast", 1)])
def test_each_loss_on_the_attention_goes_down(erased, pack, monkeypatch, name, weight, kind):
    seen = []
    tune = pack.ops.methods.job.tune
    monkeypatch.setattr(pack.ops.methods.job, "tune", lambda *a, **b: seen.append(tune(*a, **b)) or seen[0])
    weights = {"attention": 0.0, "contrast": 0.0, "preserve": 0.0, weight: 100.0}
    erased(name, steps=60, **weights)
    losses = seen[0].losses[kind::2]
    assert sum(losses[-6:]) < sum(losses[:6])


def test_zero_steps_change_nothing(erased):
    delta, report = erased("sd3", steps=0)
    assert not delta.tuned and not delta.context_map.dense().any()


@pytest.mark.parametrize("name", ["sd3", "qwen-image"])
def test_the_same_seed_gives_the_same_bytes(erased, pack, tmp_path, name):
    state = torch.get_rng_state()
    for file in "ab":
        pack.ops.delta.file.save_delta(erased(name)[0], tmp_path / file)
    pack.ops.delta.file.save_delta(erased(name, seed=1)[0], tmp_path / "c")
    assert torch.equal(torch.get_rng_state(), state)
    a, b, c = ((tmp_path / file).read_bytes() for file in "abc")
    assert a == b != c


@pytest.mark.parametrize("phase", ["Trajectories, kept", "Attention", "Tuning"])
def test_a_cancel_leaves_the_model_as_it_was(build, erased, phase):
    class Cancelled(BaseException):
        pass

    def cancel(said, done, total):
        if said.startswith(phase) and done > 1:
            raise Cancelled

    model = build("flux")
    before = bits(model)
    with pytest.raises(Cancelled):
        erased("flux", model, cancel)
    assert same(bits(model), before)
    assert not any("forward" in vars(module) for module in model.model.modules())
