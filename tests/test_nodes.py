"""The nodes, run in process as ComfyUI runs them, on a small SD1.x model with the real CLIP tokenizer."""

import logging
import random
import re
from pathlib import Path

import pytest
import torch

CONCEPTS = "a gun -> an umbrella\nblood"
FC1 = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
KEEP = "a dog\na water pistol"
pytestmark = pytest.mark.usefixtures("few_captions")


@pytest.fixture
def folder(pack, tmp_path, monkeypatch):
    """models/erased_deltas of this test's own, with nothing in it."""
    paths = pack.host.folders.folder_paths.folder_names_and_paths
    folder = tmp_path / "erased_deltas"
    folder.mkdir()
    monkeypatch.setitem(paths, "erased_deltas", ([str(folder)], {".safetensors"}))
    return folder


def conditioning(clip, text):
    with torch.inference_mode():
        return clip.encode_from_tokens(clip.tokenize(text))


def file_bytes(pack, delta, path):
    pack.ops.delta.file.save_delta(delta, path)
    return path.read_bytes()


def test_erase_reads_the_concept_as_the_safe_target(run, make_model, make_clip, trce_settings):
    clip = make_clip()
    _, delta, report, _ = run(
        "TRCEErase",
        model=make_model(),
        clip=clip,
        concepts=CONCEPTS,
        keep=KEEP,
        settings=trce_settings(closed_form=dict(weight_keyword=0.0, preserve=1e-4, ridge=1e-4, templates=False)),
    )
    end = 3  # SoT, a, gun, EoT
    gun, umbrella, dog = (conditioning(clip, text)[0, end] for text in ("a gun", "an umbrella", "a dog"))
    erased, kept = delta.context_map.apply(gun), delta.context_map.apply(dog)
    assert (erased - umbrella).norm() < 0.05 * (gun - umbrella).norm()
    assert (kept - dog).norm() < (erased - gun).norm()
    assert "2 concepts" in report
    assert re.search(r"first_eot 0\.0\d+", report)
    assert delta.info.measured["moved_first_eot"] < 0.05
    assert delta.info.family == "sd1"
    assert [pair.concept for pair in delta.info.concepts] == ["a gun", "blood"]
    assert delta.info.keep == ("a dog", "a water pistol")


def test_preserve_holds_the_keep_list(run, make_model, make_clip, trce_settings):
    def kept(preserve):
        settings = trce_settings(closed_form=dict(preserve=preserve))
        inputs = dict(model=make_model(), clip=make_clip(), concepts=CONCEPTS, keep=KEEP, settings=settings)
        _, delta, *_ = run("TRCEErase", **inputs)
        return delta.info.measured["kept_keep_list"]

    assert kept(10.0) < 0.5 * kept(0.001)


def test_a_digest_is_cached_for_what_it_leaves_out(pack, make_clip):
    base_digest = pack.host.fingerprint.base_digest
    for first, second in (((), (FC1,)), ((FC1,), ())):
        patcher = make_clip().patcher
        digests = base_digest(patcher, first), base_digest(patcher, second)
        assert digests[0] != digests[1]
        assert digests == (base_digest(make_clip().patcher, first), base_digest(make_clip().patcher, second))


def test_what_mentions_the_concept_is_not_kept(pack, encoder, monkeypatch, use_captions):
    """Neither an everyday caption nor a sentence around the keep list may hold on to the concept itself."""
    erase, moment = pack.module.trce_ops.closed_form.erase, pack.module.trce_ops.closed_form.preserve.keep_moment
    use_captions("a cat", "a red dog", "two boats")
    monkeypatch.setattr(pack.module.trce_ops.text.prompts, "TEMPLATES", ("{}", "a dog and {}", "a red {bare}"))
    asked = []
    monkeypatch.setattr(erase, "keep_moment", lambda captions, *rest: asked.append(captions) or moment(captions, *rest))
    pairs = pack.ops.text.concepts.parse_concepts("a dog -> a cat")
    delta, report = erase.erase(pairs, ["a mat"], {"context": encoder}, family="sd1")
    kept = erase.keep_moments(["a mat"], ["a dog"], ("{}",), encoder, None, lambda *_: None)
    assert torch.allclose(kept["everyday captions"].moment, moment(["a cat", "two boats"], encoder).moment)
    assert ["a mat", "a red mat"] in asked
    assert report.prompts == 2


def test_the_same_inputs_give_the_same_file_and_touch_no_global_randomness(pack, run, make_model, make_clip, tmp_path):
    torch.manual_seed(3)
    random.seed(3)
    state, state_of_random = torch.get_rng_state(), random.getstate()
    deltas = [run("TRCEErase", model=make_model(), clip=make_clip(), concepts=CONCEPTS, keep=KEEP)[1] for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == state_of_random
    first, second = (file_bytes(pack, delta, tmp_path / f"{i}") for i, delta in enumerate(deltas))
    assert first == second


def test_a_delta_on_another_checkpoint_is_the_same_as_erasing_there(run, make_model, make_clip, sample, trce_settings):
    clip, other = make_clip(), make_model(seed=9)
    asked = dict(clip=clip, concepts=CONCEPTS, keep=KEEP, settings=trce_settings(closed_form=dict(metric=False)))
    _, delta, *_ = run("TRCEErase", model=make_model(), **asked)
    there, *_ = run("TRCEErase", model=other, **asked)
    (applied,) = run("TRCEApplyDelta", model=other, delta=delta, clip=clip)
    gun, empty = conditioning(clip, "a gun in the rain"), conditioning(clip, "")
    assert torch.equal(sample(there, gun, empty), sample(applied, gun, empty))
    assert not torch.equal(sample(other, gun, empty), sample(applied, gun, empty))


def test_strength_zero_is_the_model_bit_for_bit(run, make_model, make_clip, sample):
    model, clip = make_model(), make_clip()
    erased, delta, *_ = run("TRCEErase", model=model, clip=clip, concepts=CONCEPTS, keep="", strength=0.0)
    (applied,) = run("TRCEApplyDelta", model=model, delta=delta, strength=0.0)
    gun, empty = conditioning(clip, "a gun"), conditioning(clip, "")
    original = sample(model, gun, empty)
    assert torch.equal(sample(erased, gun, empty), original)
    assert torch.equal(sample(applied, gun, empty), original)
    assert delta.context_map.rank


def test_cancel_leaves_the_model_bit_identical_and_no_file(pack, run, make_model, make_clip, monkeypatch, tmp_path):
    import comfy.model_management as mm

    model, clip = make_model(), make_clip()
    before = {key: weight.clone() for key, weight in model.model.state_dict().items()}
    clip_before = {key: weight.clone() for key, weight in clip.cond_stage_model.state_dict().items()}
    monkeypatch.setattr(pack.host.folders.folder_paths, "get_system_user_directory", lambda _: str(tmp_path / "cache"))
    calls = []

    def cancelling(encode):
        def call(*arguments):
            calls.append(arguments)
            if len(calls) == 2:
                mm.interrupt_current_processing()
            return encode(*arguments)

        return call

    for name in ("encode", "encode_tree"):
        monkeypatch.setattr(
            pack.host.encoders.ClipEncoder, name, cancelling(getattr(pack.host.encoders.ClipEncoder, name))
        )
    with pytest.raises(mm.InterruptProcessingException):
        run("TRCEErase", model=model, clip=clip, concepts=CONCEPTS, keep=KEEP)
    assert len(calls) == 2
    assert not model.patches
    assert all(torch.equal(weight, before[key]) for key, weight in model.model.state_dict().items())
    assert all(torch.equal(weight, clip_before[key]) for key, weight in clip.cond_stage_model.state_dict().items())
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (dict(concepts=""), "'concepts' is empty"),
        (dict(concepts="a -> b -> c"), "Line 1 of 'concepts'"),
        (dict(concepts="cat " * 74), "line of 'cat .* in 'concepts' cannot be used. .* 75 tokens"),
        (dict(keep="cat " * 74), "A line of 'keep' cannot be used. .* 75 tokens"),
        (dict(concepts="embedding:bad"), "textual inversion"),
        (dict(closed_form=dict(weight_first_eot=0.0, weight_keyword=0.0)), "raise 'weight_first_eot'"),
        (dict(closed_form=dict(preserve=0.0, ridge=0.0, templates=False)), "raise 'ridge'"),
    ],
)
def test_bad_input_is_one_sentence_and_patches_nothing(run, make_model, make_clip, trce_settings, inputs, says):
    model, inputs = make_model(), {"concepts": CONCEPTS, "keep": "", **inputs}
    closed_form = inputs.pop("closed_form", None)
    with pytest.raises(ValueError, match=says):
        settings = trce_settings(closed_form=closed_form)
        run("TRCEErase", model=model, clip=make_clip(), **inputs, settings=settings)
    assert not model.patches


def test_a_clip_of_another_kind_or_width_is_refused(run, make_model, make_clip):
    with pytest.raises(ValueError, match="width 32 .* width 80"):
        run("TRCEErase", model=make_model(), clip=make_clip(kind="sdxl"), concepts=CONCEPTS, keep="")
    model = make_model()
    for block in model.model.modules():
        if hasattr(block, "attn2"):
            for name in ("to_k", "to_v"):
                getattr(block.attn2, name).weight = torch.nn.Parameter(torch.zeros(64, 40))
    with pytest.raises(ValueError, match="width 40 .* width 32"):
        run("TRCEErase", model=model, clip=make_clip(), concepts=CONCEPTS, keep="")


def test_another_encoder_is_refused_unless_allowed(run, make_model, make_clip, caplog):
    model, clip = make_model(), make_clip()
    _, delta, *_ = run("TRCEErase", model=model, clip=clip, concepts=CONCEPTS, keep="")
    skipped, patched = clip.clone(), clip.clone()
    skipped.clip_layer(-2)
    patched.add_patches({FC1: ("diff", (torch.ones(64, 32),))}, 0.5)
    for other in (make_clip(seed=5), skipped, patched):
        with pytest.raises(ValueError, match="another text encoder"):
            run("TRCEApplyDelta", model=model, delta=delta, clip=other)
    with caplog.at_level(logging.WARNING):
        run("TRCEApplyDelta", model=model, delta=delta, clip=make_clip(seed=5), allow_other_encoder=True)
    assert "another text encoder" in caplog.text


def test_the_fingerprint_knows_the_encoder_and_not_how_it_is_loaded(pack, make_clip):
    def fingerprint(clip):
        return pack.host.encoders.ClipEncoder(clip).fingerprint

    clip = make_clip(dtype=torch.float16)
    single = make_clip(seed=1)
    single.cond_stage_model.load_state_dict(clip.cond_stage_model.state_dict())
    assert fingerprint(clip) == fingerprint(single) == fingerprint(clip.clone())

    last = clip.clone()
    last.clip_layer(-1)  # what no clip skip means for SD1.x
    assert fingerprint(last) == fingerprint(clip)

    patched = clip.clone()
    patched.add_patches({FC1: ("diff", (torch.ones(64, 32),))})
    changed = fingerprint(patched)
    patched.load_model()  # the weights in memory are the patched ones now
    assert fingerprint(patched) == changed != fingerprint(clip)


def test_the_fingerprint_knows_every_row_of_the_token_table(pack, make_clip):
    """Training a word changes one row in 49,408."""
    prints = set()
    for row in (None, 0, 12345, 49407):
        clip = make_clip()
        table = clip.cond_stage_model.clip_l.transformer.text_model.embeddings.token_embedding.weight
        if row is not None:
            table.data[row] += 0.01
        prints.add(pack.host.encoders.ClipEncoder(clip).fingerprint)
    assert len(prints) == 4


def test_save_and_load_give_the_delta_back_and_never_overwrite(run, pack, make_model, make_clip, folder, listen):
    shown = []
    listen(lambda node_id, text: shown.append(text))
    _, delta, *_ = run("TRCEErase", model=make_model(), clip=make_clip(), concepts=CONCEPTS, keep=KEEP)
    for _ in range(2):
        run("TRCESaveDelta", delta=delta, filename_prefix="set/no-guns")
    names = pack.host.folders.file_names("erased_deltas")
    assert [Path(name).as_posix() for name in names] == [f"set/no-guns_0000{n}_.safetensors" for n in (1, 2)]
    (loaded,) = run("TRCELoadDelta", delta_name=names[1])
    assert loaded.info == delta.info
    erases, keeps = shown[-1].removeprefix("Erases:\n").split("\nKeeps:\n")  # lines for the widgets of TRCE Erase
    again = pack.ops.text.concepts
    assert (again.parse_concepts(erases), again.parse_keep(keeps)) == (delta.info.concepts, delta.info.keep)
    assert all(torch.equal(a, b) for a, b in zip(loaded.context_map.factors, delta.context_map.factors))
    load = pack.nodes["TRCELoadDelta"]
    stamp = load.fingerprint_inputs(delta_name=names[1])
    (folder / names[1]).write_bytes(b"changed")
    assert load.fingerprint_inputs(delta_name=names[1]) != stamp
    with pytest.raises(ValueError, match="cannot be read as a safetensors file"):
        run("TRCELoadDelta", delta_name=names[1])


@pytest.mark.parametrize("prefix", ["../outside", "..", "", "a/../../outside", "/outside/x"])
def test_nothing_is_saved_outside_the_folder(run, make_model, make_clip, folder, prefix):
    _, delta, *_ = run("TRCEErase", model=make_model(), clip=make_clip(), concepts=CONCEPTS, keep="")
    with pytest.raises(ValueError, match="'filename_prefix' is"):
        run("TRCESaveDelta", delta=delta, filename_prefix=prefix)
    assert not [path for path in folder.parent.rglob("*") if path.is_file()]


def test_nothing_is_loaded_from_outside_the_folder(run, folder):
    (folder.parent / "outside.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError):
        run("TRCELoadDelta", delta_name="../outside.safetensors")


def test_the_steps_and_the_report_are_shown_on_the_node(pack, make_model, make_clip, monkeypatch, listen):
    told = []
    listen(lambda node_id, text: told.append(text))
    node = pack.nodes["TRCEErase"].PREPARE_CLASS_CLONE(None)
    output = node.execute(make_model(seed=2), make_clip(seed=2), CONCEPTS, "")
    assert told[0].startswith("Concepts: 0 of ")
    assert told[-1] == output.args[2]
    assert output.ui == {"text": [output.args[2]]}  # what the history keeps, also for those without a browser


def test_the_time_left_is_that_of_a_step_that_begins_again(pack, monkeypatch, listen):
    told = []
    listen(lambda node_id, text: told.append(text))
    progress = pack.host.progress.node_progress(None)
    for second, word, done in ((0, 1, 0), (10, 1, 1), (1000, 2, 0), (1010, 2, 1)):
        monkeypatch.setattr(pack.host.progress, "perf_counter", lambda second=second: second)
        progress(f"Learning, word {word}", done, 3)
    assert told[1::2] == [f"Learning, word {word}: 1 of 3, 20 s left" for word in (1, 2)]


def test_the_metric_is_that_of_the_weights_with_their_loras(pack, run, make_model, make_clip, sample, trce_settings):
    """Also while ComfyUI has the patched weights in place; and a map that was solved in it says so in its file."""
    module, gram = pack.module.nodes.host.text_weights, pack.ops.closed_form.metric.gram
    plain, patched = make_model(), make_model().clone()
    readers = pack.host.readers.find_text_readers(plain)
    weights = {key: plain.model.state_dict()[key].clone() for key in readers.keys}
    change = torch.randn(weights[readers.keys[0]].shape, generator=torch.Generator().manual_seed(1))
    patched.add_patches({readers.keys[0]: ("diff", (change,))}, 0.5)
    clip = make_clip()
    for model in (plain, patched):
        if model is patched:
            weights[readers.keys[0]] += 0.5 * change
        expected = gram(weights.values(), len(weights), readers.streams["context"].width)
        assert torch.allclose(module.metrics(model, readers, dict(context=32))["context"], expected, atol=1e-5)
        sample(model, conditioning(clip, "a gun"), conditioning(clip, ""))
        assert torch.allclose(module.metrics(model, readers, dict(context=32))["context"], expected, atol=1e-5)
    asked = dict(model=plain, clip=clip, concepts=CONCEPTS, keep=KEEP)
    erasures = {
        metric: run("TRCEErase", **asked, settings=trce_settings(closed_form=dict(metric=metric)))[1]
        for metric in (True, False)
    }
    assert {metric: delta.info.settings["metric"] for metric, delta in erasures.items()} == {
        True: True,
        False: False,
    }
    on, off = (delta.context_map.dense() for delta in erasures.values())
    assert not torch.allclose(on, off, atol=1e-3)


def test_weights_that_are_nan_leave_the_metric_out(pack, run, make_model, make_clip, monkeypatch, trce_settings):
    """The erasure is then solved as without it, and says so. Packed weights: test_packed_weights.py."""
    asked = dict(model=make_model(), clip=make_clip(), concepts=CONCEPTS, keep=KEEP)
    off = run("TRCEErase", **asked, settings=trce_settings(closed_form=dict(metric=False, preserve=3.0)))[1]
    nan = torch.full((5, 768), torch.nan)
    monkeypatch.setattr(pack.host.weights.ModelWeights, "base", lambda self, key: nan)
    _, delta, report, *_ = run("TRCEErase", **asked)
    assert torch.equal(delta.context_map.dense(), off.context_map.dense())
    assert delta.info.settings["metric"] is False and "without the metric" in report


def test_settings_that_a_workflow_does_not_name_have_their_defaults(run, trce_settings):
    """ComfyUI hands them over as None when a choice is named and one of its settings is."""
    named = trce_settings(closed_form=dict(ridge=0.5), tuning=dict(steps=7))
    unnamed = run(
        "TRCESettings",
        closed_form={"closed_form": "custom", "ridge": 0.5, "preserve": None, "weight_pads": None},
        tuning={"tuning": "custom", "steps": 7, "rank": None, "loss": None},
    )[0]
    assert unnamed == named
