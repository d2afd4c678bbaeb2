"""Lists out of language models' answers: the forms they come in, and nothing in them breaks the widget."""

import json
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trce_ops.lists.llm_answer import MAX_ITEMS, Item, read_answer
from trce_ops.text.concepts import ConceptPair, format_concepts, parse_concepts, parse_keep

NAMES = ("a gun", "blood")
WANTED = ["pistol", "hunting rifle", "revolver"]


@pytest.mark.parametrize(
    "answer",
    [
        "pistol\nhunting rifle\nrevolver",
        "pistol, hunting rifle, revolver",
        "Synonyms: pistol, hunting rifle, revolver.",
        "Here's a list: pistol, hunting rifle, revolver",
        "Sure! Here are 3 synonyms for a gun:\n\n1. pistol\n2. hunting rifle\n3. revolver\n\nLet me know!",
        "1) **pistol** - small\n2) **hunting rifle**: long\n3) **revolver** (old)",
        "- pistol\n- hunting rifle\n- revolver\n\nThese words all name a firearm.",
        "• “pistol”\n• “hunting rifle”,\n• “revolver”.",
        "* *pistol*\n* `hunting rifle`\n* 'revolver'",
        "> - [ ] pistol\n> - [x] hunting rifle\n> - [ ] revolver",
        "Okay:\n```\npistol\nhunting rifle\nrevolver\n```\nHope that helps.",
        '```json\n["pistol", "hunting rifle", "revolver"]\n```',
        'Here you go: ["pistol", "hunting rifle", "revolver"] - enjoy!',
        '{"synonyms": ["pistol", "hunting rifle", "revolver"]}',
        '["pistol",\n"hunting rifle",\n"revolver"',
        "<think>The user wants\n- a list\n- of words</think>\n1. pistol\n2. hunting rifle\n3. revolver",
        "first I thought:\n- of this\n</think>pistol\nhunting rifle\nrevolver",
        "| synonym |\n|---|\n| pistol |\n| hunting rifle |\n| revolver |",
        "1. A gun:\n   - pistol\n   - hunting rifle\n   - revolver",
        "# Names of a gun\npistol\nhunting rifle\nrevolver",
        "a) pistol\nb) hunting rifle\nc) revolver\nb) hunting rifle",
    ],
)
def test_the_list_in_an_answer(answer):
    assert [item.text for item in read_answer(answer, NAMES)] == WANTED


@pytest.mark.parametrize(
    "answer",
    [
        "1. gun -> umbrella\n2. blood => water",
        "- gun \u2192 umbrella\n- **blood** \u2192 **water**",
        '{"gun": "umbrella", "blood": "water"}',
        '[{"concept": "gun", "safe": "umbrella"}, {"concept": "blood", "replacement": "water"}]',
        "| concept | safe |\n|:--|--:|\n| gun | umbrella |\n| blood | water |",
    ],
)
def test_safe_targets(answer):
    assert read_answer(answer) == (Item("gun", "umbrella"), Item("blood", "water"))


@pytest.mark.parametrize(
    "answer",
    [
        "gun: pistol, rifle\nblood: gore",
        "**A gun**\n- pistol\n- rifle\n**Blood**\n- gore",
        "### Synonyms for gun:\n1. pistol\n2. rifle\n\n### Blood\n1. gore",
        "- **gun**: pistol, rifle\n- **blood**: gore",
    ],
)
def test_what_an_item_stands_under(answer):
    assert read_answer(answer, NAMES) == tuple(
        Item(text, None, of) for text, of in (("pistol", "a gun"), ("rifle", "a gun"), ("gore", "blood"))
    )


@pytest.mark.parametrize(
    "answer", ["", "\n \n", "I'm sorry, but I can't help with that.", "<think>unfinished\n- a", "[]", "```\n```", "[1]"]
)
def test_an_answer_without_a_list_is_an_empty_list(answer):
    assert read_answer(answer, NAMES) == ()


def test_sentences_are_a_list_where_all_lines_are_sentences():
    answer = (
        "Sure, here they are.\nA woman is reading in a park.\nA man walks along the beach.\nTwo dogs play with a ball."
    )
    assert [item.text for item in read_answer(answer)] == [
        "A woman is reading in a park",
        "A man walks along the beach",
        "Two dogs play with a ball",
    ]


def test_nothing_in_its_place():
    assert read_answer("- gore -> nothing\n- guts ->") == (Item("gore", ""), Item("guts", ""))


def test_an_endless_answer_is_cut():
    assert len(read_answer("\n".join(f"{i}. thing {i}" for i in range(1000)))) == MAX_ITEMS


@pytest.mark.parametrize(
    "endless", ["[", '["a",', "{", " ", "a" + " " * 50_000, "-", "* ", ":", "|", "**", '"', "a -> ", "<think>", "```\n"]
)
def test_no_answer_takes_long(endless):
    start = perf_counter()
    read_answer("x" + endless * (200_000 // len(endless)) + "x", NAMES)
    assert perf_counter() - start < 5


pieces = st.sampled_from(["- ", "1. ", "->", "|", "#", "**", '"', "[", "{", ":", "```", "\n", ", ", "a gun", "b", "\\"])


@given(st.one_of(st.text(max_size=200), st.lists(pieces, max_size=30).map("".join)))
def test_whatever_is_read_can_stand_in_the_widgets(answer):
    for item in read_answer(answer, NAMES):
        assert parse_keep(item.text) == (item.text,)
        pair = ConceptPair(item.text, item.safe or "")
        if pair.concept.lower() != pair.safe.lower():
            assert parse_concepts(format_concepts([pair])) == (pair,)


words = st.lists(st.text("abcdefgh", min_size=2, max_size=8), min_size=1, max_size=8, unique=True)


@given(words)
def test_json_and_bullets_come_back_as_they_were(items):
    assert [item.text for item in read_answer(json.dumps(items))] == items
    assert [item.text for item in read_answer("\n".join(f"- {item}" for item in items))] == items
