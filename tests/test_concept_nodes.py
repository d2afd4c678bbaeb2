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


def test_a_preset_comes_first_and_what_is_written_after_it(run, pack):
    presets, parse = pack.ops.lists.presets, pack.ops.text.concepts.parse_concepts
    violence = parse(presets.ERASE_PRESETS["violence"])
    assert parse(erase(run, preset="violence")[0]) == violence
    concepts, report = erase(run, preset="violence", concepts="a dog -> a cat")
    assert parse(concepts) == (*violence, *parse("a dog -> a cat"))
    assert f"{len(violence) + 1} concepts to erase" in report
    assert f"From the preset 'violence' ({len(violence)}):" in report and "Written (1):" in report
    assert all(f"  {line}" in report.splitlines() for line in concepts.splitlines())  # the whole list is shown
    kept, report = keep(run, preset="animals", keep="a kite")
    assert kept == presets.KEEP_PRESETS["animals"].strip() + "\na kite"
    assert all(f"  {line}" in report.splitlines() for line in kept.splitlines())


def test_what_is_in_the_preset_and_written_counts_once_as_it_is_written(run, pack):
    presets, parse = pack.ops.lists.presets, pack.ops.text.concepts.parse_concepts
    plain = parse(presets.ERASE_PRESETS["violence"])
    first = plain[0]
    written = f"{first.concept.upper()} -> a meadow"
    concepts = parse(erase(run, preset="violence", concepts=written)[0])
    assert concepts == (*plain[1:], *parse(written))
    assert parse(erase(run, preset="violence", concepts="# nothing of my own")[0]) == plain
    line = presets.KEEP_PRESETS["animals"].splitlines()[3]
    assert keep(run, preset="animals", keep=line)[0] == presets.KEEP_PRESETS["animals"].strip()


def test_presets_need_no_script(pack):
    """The frontend calls no script's callback on a widget that a subgraph shows on its outside."""
    folder = Path(pack.module.__file__).parent / pack.module.WEB_DIRECTORY
    assert not list(folder.rglob("*.js"))


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
        (dict(concepts="# a comment"), "'concepts' is empty"),
    ],
)
def test_nothing_to_erase_is_one_sentence(run, inputs, says):
    with pytest.raises(ValueError, match=says):
        erase(run, **inputs)


def test_similar_words_come_from_the_text_encoder(run, pack, make_clip):
    clip = make_clip()
    concepts, report = erase(run, concepts="a gun -> a kite\ndog", clip=clip, similar_words=2, min_similarity=-1.0)
    lines = concepts.splitlines()
    assert lines[:2] == ["a gun -> a kite", "dog"]
    found = pack.ops.lists.neighbours.nearest(
        ["a gun", "dog"], pack.ops.lists.words.WORDS, pack.host.encoders.ClipEncoder(clip), 2
    )
    assert {line.split(" -> ")[0] for line in lines[2:]} == {word for near in found for word, _ in near}
    assert "Similar words (" in report
    kept = lines[2].split(" -> ")[0]
    fewer, _ = erase(run, concepts="a gun -> a kite\ndog", clip=clip, similar_words=2, min_similarity=-1.0, keep=kept)
    assert kept not in [line.split(" -> ")[0] for line in fewer.splitlines()]
    assert erase(run, concepts="dog", clip=clip, similar_words=0)[0] == "dog"
    assert erase(run, concepts="dog", clip=clip, min_similarity=1.0)[0] == "dog"


@pytest.mark.parametrize("kind", ["sdxl", "flux", "z-image"])
def test_similar_words_in_other_encoders(run, pack, make_clip, kind, monkeypatch):
    monkeypatch.setattr(pack.module.nodes.erase_concepts, "WORDS", pack.ops.lists.words.WORDS[::100])
    concepts, _ = erase(run, concepts="dog", clip=make_clip(kind=kind), similar_words=2, min_similarity=-1.0)
    assert len(concepts.splitlines()) == 3


def test_a_keep_list_holds_nothing_of_what_is_erased(run, make_clip):
    inputs = dict(
        keep="a kite\na red gun", generated="1. an umbrella\n2. a gun in a drawer", concepts="a gun -> a kite"
    )
    kept, report = keep(run, **inputs)
    assert kept.splitlines() == ["a kite", "an umbrella"]
    assert "Left out because they mention what is erased (2)" in report
    more, report = keep(run, **inputs, clip=make_clip(), neighbours=4)
    assert more.splitlines()[:2] == kept.splitlines()
    assert len(more.splitlines()) == 6
    assert "Everyday captions similar to what is erased (4)" in report
    assert keep(run, keep="")[0] == ""
    assert keep(run, keep="a dog", concepts="# nothing yet")[0] == "a dog"


def test_the_lists_feed_trce_erase(run, make_model, make_clip, few_captions):
    clip = make_clip()
    concepts, _ = erase(run, concepts="a gun | a pistol -> an umbrella")
    kept, _ = keep(run, keep="a dog\na gun", concepts=concepts)
    _, delta, *_ = run("TRCEErase", model=make_model(), clip=clip, concepts=concepts, keep=kept)
    assert [pair.concept for pair in delta.info.concepts] == ["a gun", "a pistol"]
    assert delta.info.keep == ("a dog",)


def test_the_report_is_on_the_node_and_in_the_history(pack, monkeypatch, listen):
    told = []
    listen(lambda node_id, text: told.append(text))
    for node_id in ("TRCEEraseConcepts", "TRCEKeepConcepts"):
        output = pack.nodes[node_id].PREPARE_CLASS_CLONE(None).execute("none", "a dog")
        assert output.ui == {"text": [output.args[1]]}
        assert told.pop() == output.args[1]
