"""The concepts and keep widgets: what is read, and what is refused with a sentence that names the line."""

import pytest

from trce_ops.text.captions import BENIGN_CAPTIONS
from trce_ops.text.concepts import MAX_LINES, ConceptError, ConceptPair, parse_concepts, parse_keep
from trce_ops.text.prompts import PLAIN, TEMPLATES, company, expand, mentions


def test_lines_arrows_and_comments():
    text = "# artists\nVan Gogh -> a painting\n\n  blood  # alone\nC# -> a language\nvan gogh -> A Painting\n"
    assert parse_concepts(text) == (
        ConceptPair("Van Gogh", "a painting"),
        ConceptPair("blood", ""),
        ConceptPair("C#", "a language"),
    )


def test_keep_is_a_list_of_captions():
    assert parse_keep("a dog\n\n# not this\na   dog\na cat -> a dog") == ("a dog", "a cat -> a dog")
    assert parse_keep("") == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'concepts' is empty"),
        ("# only a comment", "'concepts' is empty"),
        ("a\n-> b", "Line 2 .* no concept"),
        ("a -> b -> c", "Line 1 .* more than one '->'"),
        ("Gun -> gun", "Line 1 .* onto itself"),
        ("a -> b\na -> c", "Line 2 .* second safe target"),
        ("x" * 1000, "Line 1 .* 1000 characters"),
        ("\n".join(f"thing {i}" for i in range(MAX_LINES + 1)), "257 lines"),
    ],
)
def test_unusable_text_is_refused(text, says):
    with pytest.raises(ConceptError, match=says):
        parse_concepts(text)


def test_every_template_holds_the_concept_apart_from_its_own_words():
    assert TEMPLATES[0] == "{}"
    assert len(set(TEMPLATES)) == len(TEMPLATES)
    for template in TEMPLATES:
        assert sum(word in ("{}", "{bare}") for word in template.split()) == 1


def test_expansion_is_deduplicated_and_an_empty_target_is_the_empty_prompt():
    pairs = (ConceptPair("a gun", "an umbrella"), ConceptPair("blood"))
    prompts = expand(pairs + pairs)
    assert len(prompts) == 2 * len(TEMPLATES)
    texts = {(p.source, p.target) for p in prompts}
    assert ("a photo of a gun", "a photo of an umbrella") in texts
    assert ("a red gun", "a red umbrella") in texts
    assert {p.target for p in prompts if p.concept == "blood"} == {""}
    assert len(expand(pairs, PLAIN)) == 2


def test_everyday_captions():
    assert len(BENIGN_CAPTIONS) >= 200
    assert len(set(BENIGN_CAPTIONS)) == len(BENIGN_CAPTIONS)


def test_a_sentence_mentions_a_concept_word_for_word():
    assert mentions("feeding pigeons in a Square", ["a square"])
    assert mentions("a red, round ball", ["green", "red"])
    assert not mentions("a covered wagon", ["red"])
    assert not mentions("a squared paper", ["a square"])
    assert not mentions("anything", [])


def test_a_quality_goes_around_with_what_is_kept():
    keep = ["a circle", "an egg {1}", "solid", "old"]
    found = expand([ConceptPair("red", "blue")], company("red", keep))
    assert {pair.source: pair.target for pair in found} == {
        "a red circle": "a blue circle",
        "a red egg {1}": "a blue egg {1}",
        "a solid red": "a solid blue",
        "a solid red circle": "a solid blue circle",
        "a solid red egg {1}": "a solid blue egg {1}",
        "an old red": "an old blue",
        "an old red circle": "an old blue circle",
        "an old red egg {1}": "an old blue egg {1}",
    }
    assert company("orange", ["a car"]) == ["an {bare} car"]


def test_a_thing_and_a_concept_without_company_go_alone():
    assert company("a star", ["a circle", "solid"]) == []
    assert company("red", []) == []


def test_company_is_not_made_of_thousands():
    assert len(company("red", ["a thing", "old"] * 5000)) < 1000
