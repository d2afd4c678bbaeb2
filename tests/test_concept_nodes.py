"""Erase Concepts and Keep Concepts, run in process as ComfyUI runs them."""

from pathlib import Path

import pytest


def erase(run, **inputs):
    return run("TRCEEraseConcepts", **inputs)


def keep(run, **inputs):
    return run("TRCEKeepConcepts", **inputs)


def test_what_is_written_comes_out_one_concept_per_line(run):
    concepts, report = erase(run, concepts="a gun | a pistol -> an umbrella\nblood  # red")
    assert concepts == "a gun -> an umbrella\na pistol -> an umbrella\nblood"
    assert "3 concepts" in report


def test_a_preset_counts_while_nothing_is_written(run, pack):
    presets = pack.ops.lists.presets
    concepts, _ = erase(run, preset="violence")
    parse = pack.ops.text.concepts.parse_concepts
    assert parse(concepts) == parse(presets.ERASE_PRESETS["violence"])
    assert erase(run, preset="violence", concepts="a dog")[0] == "a dog"
    kept, _ = keep(run, preset="animals")
    assert kept == presets.KEEP_PRESETS["animals"]
    assert keep(run, preset="animals", keep="a dog")[0] == "a dog"


def test_the_browser_is_given_the_lists_it_fills_in(pack):
    for node_id, fills in (("TRCEEraseConcepts", "concepts"), ("TRCEKeepConcepts", "keep")):
        required = pack.nodes[node_id].GET_NODE_INFO_V1()["input"]["required"]
        kind, options = required["preset"]
        assert kind == "COMBO"
        assert fills == options["fills"]
        assert required[fills][1]["multiline"]
        assert options["options"] == [options["default"], *options["lists"]]
    script = Path(pack.module.__file__).parent / pack.module.WEB_DIRECTORY / "presets.js"
    assert script.is_file()


def test_synonyms_of_a_language_model(run):
    answer = "Sure!\n1. **pistol**\n2. blood -> water\n3. a gun\n4. a toy gun\nHope that helps."
    concepts, report = erase(run, concepts="a gun -> an umbrella", generated=answer, keep="a toy gun")
    assert concepts.splitlines() == ["a gun -> an umbrella", "pistol -> an umbrella", "blood -> water"]
    assert "From the language model (2)" in report
    assert erase(run, concepts="", generated="- a gun -> a kite\n- blood")[0] == "a gun -> a kite\nblood"
    _, report = erase(run, concepts="a gun", generated="I'm sorry, but I can't help with that.")
    assert "Nothing new was found in 'generated'" in report


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (dict(concepts=""), "'concepts' is empty"),
        (dict(concepts="a -> b -> c"), "Line 1 of 'concepts'"),
        (dict(concepts="", generated="I'm sorry, but no."), "no list in 'generated'"),
    ],
)
def test_nothing_to_erase_is_one_sentence(run, inputs, says):
    with pytest.raises(ValueError, match=says):
        erase(run, **inputs)


def test_neighbours_come_from_the_text_encoder(run, pack, make_clip):
    clip = make_clip()
    concepts, report = erase(run, concepts="a gun -> a kite\ndog", clip=clip, neighbours=2, min_likeness=-1.0)
    lines = concepts.splitlines()
    assert lines[:2] == ["a gun -> a kite", "dog"]
    found = pack.ops.lists.neighbours.nearest(
        ["a gun", "dog"], pack.ops.lists.words.WORDS, pack.host.encoders.ClipEncoder(clip), 2
    )
    assert {line.split(" -> ")[0] for line in lines[2:]} == {word for near in found for word, _ in near}
    assert "Neighbours (" in report
    kept = lines[2].split(" -> ")[0]
    fewer, _ = erase(run, concepts="a gun -> a kite\ndog", clip=clip, neighbours=2, min_likeness=-1.0, keep=kept)
    assert kept not in [line.split(" -> ")[0] for line in fewer.splitlines()]
    assert erase(run, concepts="dog", clip=clip, neighbours=0)[0] == "dog"
    assert erase(run, concepts="dog", clip=clip, min_likeness=1.0)[0] == "dog"


@pytest.mark.parametrize("kind", ["sdxl", "flux", "z-image"])
def test_neighbours_in_other_encoders(run, pack, make_clip, kind, monkeypatch):
    monkeypatch.setattr(pack.module.nodes.concept_lists, "WORDS", pack.ops.lists.words.WORDS[::100])
    concepts, _ = erase(run, concepts="dog", clip=make_clip(kind=kind), neighbours=2, min_likeness=-1.0)
    assert len(concepts.splitlines()) == 3


def test_a_keep_list_holds_nothing_of_what_is_erased(run, make_clip):
    inputs = dict(
        keep="a kite\na red gun", generated="1. an umbrella\n2. a gun in a drawer", concepts="a gun -> a kite"
    )
    kept, report = keep(run, **inputs)
    assert kept.splitlines() == ["a kite", "an umbrella"]
    assert "Left out, for they name what is erased (2)" in report
    more, report = keep(run, **inputs, clip=make_clip(), neighbours=4)
    assert more.splitlines()[:2] == kept.splitlines()
    assert len(more.splitlines()) == 6
    assert "Everyday captions near to what is erased (4)" in report
    assert keep(run, keep="")[0] == ""


def test_the_lists_feed_trce_erase(run, make_model, make_clip, pack, monkeypatch):
    module = pack.module.trce_ops.closed_form.erase
    monkeypatch.setattr(module, "BENIGN_CAPTIONS", module.BENIGN_CAPTIONS[::20])
    clip = make_clip()
    concepts, _ = erase(run, concepts="a gun | a pistol -> an umbrella")
    kept, _ = keep(run, keep="a dog\na gun", concepts=concepts)
    _, delta, *_ = run("TRCEErase", model=make_model(), clip=clip, concepts=concepts, keep=kept, templates=False)
    assert [pair.concept for pair in delta.info.concepts] == ["a gun", "a pistol"]
    assert delta.info.keep == ("a dog",)


def test_the_report_is_on_the_node_and_in_the_history(pack, monkeypatch, listen):
    told = []
    listen(lambda node_id, text: told.append(text))
    for node_id in ("TRCEEraseConcepts", "TRCEKeepConcepts"):
        output = pack.nodes[node_id].PREPARE_CLASS_CLONE(None).execute("my own list", "a dog")
        assert output.ui == {"text": [output.args[1]]}
        assert told.pop() == output.args[1]
