"""Lists out of language models' answers: what is read, and that nothing else is turned into a concept."""

import json
import sys
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trce_ops.lists.llm_answer import MAX_ITEMS, Item, not_understood, read_answer
from trce_ops.text.concepts import ConceptPair, format_concepts, format_keep, parse_concepts, parse_keep

NAMES = ("a gun", "blood")
WANTED = ["pistol", "hunting rifle", "great white shark"]
PAIRS = (Item("gun", "umbrella"), Item("knife", "spoon"))


@pytest.mark.parametrize(
    "answer",
    [
        "pistol\nhunting rifle\ngreat white shark",
        "Sure! Here are 3 synonyms for it:\n\n1. pistol\n2. hunting rifle\n3. great white shark\n\nLet me know!",
        "1) **pistol**\n2) *hunting rifle*\n3) `great white shark`.",
        "- pistol\n- hunting rifle\n- great white shark\n\nThese words all name a firearm.",
        "• “pistol”\n• “hunting rifle”,\n• “great white shark”.",
        "> - [ ] pistol\n> - [x] hunting rifle\n> - [ ] great white shark",
        "Okay:\n```\npistol\nhunting rifle\ngreat white shark\n```\nHope that helps.",
        "~~~text\n1. pistol\n2. hunting rifle\n3. great white shark\n~~~",
        '```json\n["pistol", "hunting rifle", "great white shark"]\n```',
        'Here you go: ["pistol", "hunting rifle", "great white shark"] - enjoy!',
        '[{"concept": "pistol"}, {"concept": "hunting rifle"}, {"concept": "great white shark"}]',
        '"pistol"\n"hunting rifle"\n"great white shark"',
        "<think>The user wants\n- a list\n- of words</think>\n1. pistol\n2. hunting rifle\n3. great white shark",
        "first I thought:\n- of this\n</think>pistol\nhunting rifle\ngreat white shark",
        "# Names\npistol\nhunting rifle\ngreat white shark",
        "a) pistol\nb) hunting rifle\nc) great white shark\nd) hunting rifle",
        "pistol | hunting rifle\ngreat white shark",
    ],
)
def test_a_list(answer):
    assert [item.text for item in read_answer(answer)] == WANTED
    assert {item.safe for item in read_answer(answer)} == {None}


KEYS = [
    *(("concept", "safe"), ("original", "safe_alternative"), ("source", "target"), ("from", "to"), ("old", "new")),
    *(("name", "replacement"), ("Concept", "Safe Target"), ("term", "substitute"), ("word", "alternative")),
]
ROWS = ('"gun","umbrella"\n"knife","spoon"', "gun, umbrella\nknife, spoon", "| gun | umbrella |\n| **knife** | spoon |")


@pytest.mark.parametrize("keys", KEYS)
def test_pairs_under_common_names_of_fields(keys):
    a, b = keys
    rows = [{a: "gun", b: "umbrella"}, {b: "spoon", a: "knife"}]
    for answer in (json.dumps(rows), f"Sure:\n```json\n{json.dumps(rows, indent=2)}\n```"):
        assert read_answer(answer) == PAIRS and not_understood(answer) in ((), ("Sure:",)), answer


@pytest.mark.parametrize("keys", [*KEYS, ("x", "y")])
@pytest.mark.parametrize(
    "layout",
    [
        "{a},{b}\ngun,umbrella\nknife,spoon",
        "{a}; {b}\ngun; umbrella\nknife; spoon",
        "{a}\t{b}\ngun\tumbrella\nknife\tspoon",
        "| {a} | {b} |\n|:--|--:|\n| gun | umbrella |\n| **knife** | spoon |",
        "{a} | {b}\n--- | ---\ngun | umbrella\nknife | spoon",
        "- {a}: gun\n  {b}: umbrella\n- {a}: knife\n  {b}: spoon",
        "{a}: gun\n{b}: umbrella\n\n{a}: knife\n{b}: spoon",
    ],
)
def test_tables_csv_and_yaml_are_not_understood(keys, layout):
    answer = layout.format(a=keys[0], b=keys[1])
    assert read_answer(answer) == ()
    assert all(any(word in piece for piece in not_understood(answer)) for word in ("gun", "umbrella", "knife", "spoon"))


@pytest.mark.parametrize(
    "answer",
    [
        '[["gun", "umbrella"], ["knife", "spoon"]]',
        '["gun -> umbrella", "knife → spoon"]',
        "1. gun -> umbrella\n2. knife => spoon",
        "- gun \u2192 umbrella\n- **knife** \u2192 **spoon**",
        '"gun" -> "umbrella",\n"knife" -> "spoon",',
    ],
)
def test_pairs(answer):
    assert read_answer(answer) == PAIRS
    assert not_understood(answer) == ()


def test_a_pair_may_have_several_names():
    wanted = (Item("gun", "umbrella"), Item("pistol", "umbrella"))
    for answer in (
        '{"concept": "gun | pistol", "safe": "umbrella"}',
        "gun | pistol -> umbrella",
    ):
        assert read_answer(answer) == wanted


@pytest.mark.parametrize(
    "answer",
    [
        "**A gun**\n- pistol\n- rifle\n**Blood**\n- gore",
        "### Synonyms for gun:\n1. pistol\n2. rifle\n\n### Blood\n1. gore",
        "1. A gun:\n   - pistol\n   - rifle\n2. Blood:\n   - gore",
    ],
)
def test_what_an_item_stands_under(answer):
    assert read_answer(answer, NAMES) == tuple(
        Item(text, None, of) for text, of in (("pistol", "a gun"), ("rifle", "a gun"), ("gore", "blood"))
    )


@pytest.mark.parametrize(
    ("answer", "texts", "left"),
    [
        ('[{"name": "gun", "description": "a weapon"}]', ["gun"], "description"),
        ('{"synonyms": "gun, pistol"}', [], "gun, pistol"),
        ("pistol, hunting rifle", [], "pistol, hunting rifle"),
        ("- gun, rifle\n- knife", ["knife"], "gun, rifle"),
        ("I'm sorry, but I can't help with that.", [], "I'm sorry"),
        ("Here is the list:\npistol", ["pistol"], "Here is the list:"),
        ("1. pistol\nand so on", ["pistol"], "and so on"),
        ("1) **pistol** - small", [], "small"),
        ("- gun: a weapon", [], "gun: a weapon"),
        ("- pistol (small)", [], "pistol (small)"),
        ('["pistol",\n"rifle",\n"revolver"', [], "pistol"),
        ('[\n["gun",\n"umbrella"],\n["knife",\n"spo', [], "umbrella"),
        ("['gun', 'pistol']", [], "'gun', 'pistol'"),
        ("gun,umbrella\nknife,spoon", [], "gun,umbrella"),
        ("Weapon | Thing\n---|---\ngun | umbrella", [], "gun | umbrella"),
        ('[["gun", "pistol"], ["blood", "gore", "guts"]]', [], "pistol"),
        ('[["gun", 0.9]]', [], "0.9"),
        ('{"gun": 5}', [], "gun"),
        ('{"gun": "umbrella", "knife": "spoon"}', [], "umbrella"),  # or a description of it
        ('{"pistol": "a small handgun"}', [], "handgun"),
        ('{"synonym1": "pistol"}', [], "pistol"),
        ('[["concept", "safe"], ["gun", "a ball"]]', ["gun"], "concept"),
        ("Unsafe term -> Safe term\ngun -> a ball", ["gun"], "Unsafe term"),
        ("Erase:\n- pistol\n\nKeep:\n- camera", ["pistol"], "camera"),
        ("## Erase\n- pistol\n## Keep\n- camera", ["pistol"], "camera"),
        ("- pistol\n**Safe alternatives**\n- camera", ["pistol"], "camera"),
        ("### Concepts\n- pistol\n### Substitutes\n- umbrella", ["pistol"], "umbrella"),
        ("- pistol\nReplace with:\n- umbrella", ["pistol"], "umbrella"),
        ("1. pistol\n   - pencil\n2. knife", ["pistol", "knife"], "pencil"),
        ("knife | pencil\nhammer | carrot", [], "hammer | carrot"),
        ("1. Pistol: A small handgun", [], "Pistol"),
        ("刀：铅笔", [], "铅笔"),
        ("['a gun', 'pistol']", [], "pistol"),
        ("1. pistol 2. rifle 3. revolver", [], "rifle"),
        ('Replace "knife" with "pencil"', [], "pencil"),
        ("Erase knife", [], "knife"),
        ("pistol 0.91", [], "0.91"),
        (r'"[\"knife\", \"pistol\"]"', [], "knife"),
        ("Knife      Pencil", [], "Pencil"),
        ("knife aka dagger", [], "dagger"),
        ("I cannot assist with weapons", [], "assist"),
        ("Here is the list you asked for\npistol", ["pistol"], "Here"),
        ("assistant\npistol", ["pistol"], "assistant"),
        ("synonyms\npistol", [], "pistol"),
        ("concept,safe\ngore,\nguts,none", [], "gore"),
        ('- target: "van gogh"\n  neutral: ""\n  action: "erase"', [], "van gogh"),
        ('erase: ["gun"]\nkeep: ["umbrella"]', [], "umbrella"),
        ("concept: Gun\nsafe: Umbrella", [], "Gun"),
        ('["gun"]\n["knife"]', [], "knife"),
        ('["gun", "umbrella"]\n["knife", "spoon"]', [], "spoon"),
        ('```\n{"gun": "umbrella"}\n{"knife": "spoon"}\n```', [], "umbrella"),
        ('[\n  // weapons\n  ["gun", "umbrella"]\n]', [], "umbrella"),
        ('keep = ["umbrella"]\nconcepts = ["gun"]', [], "umbrella"),
        ("- - gun\n  - umbrella\n- - knife\n  - spoon", [], "- umbrella"),
        ("[weapons]\ngun=umbrella", [], "[weapons]"),
        ('["gun", ["knife"]]', [], "knife"),
        ('[{"gun": "umbrella"}]', [], "gun"),
        ('{"gun": {"safe": "umbrella"}}', [], "gun"),
        ('{"concept": "gun", "synonyms": ["pistol"]}', [], "pistol"),
        ('{"concept": ["gun", "pistol"], "safe": "umbrella"}', [], "umbrella"),
        ('[{"thing": "gun", "hue": "black"}, {"thing": "knife", "hue": "grey"}]', [], "black"),
        ('{"gun": {"hue": "black"}}', [], "black"),
        ('{"erase": ["gun"], "keep": ["umbrella"]}', [], "gun"),
        ('{"concepts": ["gun"]}', [], "gun"),
        ('{"a gun": ["pistol"]}', [], "pistol"),
        ('{"keep": ["umbrella"]}', [], "umbrella"),
        ('{"safe": ["umbrella"]}', [], "umbrella"),
        ('{"target": "gun"}', [], "gun"),
        ('{"text": "a page", "gun": "an umbrella"}', [], "a page"),
        ('{"text": "a page"}', [], "a page"),
        ('[{"shun": "gun", "draw": "umbrella"}]', [], "umbrella"),
        ('{"gun": "a ball", "gun": "a kite"}', [], "a kite"),
        ('[["gun", "a ball"], ["gun", "a kite"]]', ["gun"], "a kite"),
        ('{"concept": "gun", "safe": ["a ball", "a kite"]}', [], "a kite"),
        ('["<lora:gun:1>", "gun"]', ["gun"], "lora"),
        ('["#gun"]', [], "#gun"),
        ("<think>unfinished\n- a", [], "unfinished"),
        ("```\ngun\n```\nor\n```\nknife\n```", [], "knife"),
        ("a -> b -> c\ngun", ["gun"], "a -> b -> c"),
        ("[1]", [], "1"),
        ("None", [], "None"),
        ("No synonyms found", [], "No synonyms found"),
        ("gun\n  umbrella\nknife\n  spoon", ["gun", "knife"], "umbrella"),
        ("pistol\n\nDo not erase\nwater pistol\ntoy gun", ["pistol"], "toy gun"),
        ("pistol\nrevolver\n\nBut keep these\ntoy gun", ["pistol", "revolver"], "toy gun"),
        ("- pistol\n- revolver\n\nHope this helps", ["pistol", "revolver"], "Hope this helps"),
        ("pistol\nrevolver\nHope this helps", ["pistol", "revolver"], "Hope this helps"),
        ("1. pistol 95%\n2. revolver", ["revolver"], "pistol 95%"),
        ('{"a": {"b": {"c": {"d": "e"}}}}', [], "e"),
    ],
)
def test_what_is_not_understood_is_said_and_never_a_concept(answer, texts, left):
    assert [item.text for item in read_answer(answer)] == texts
    assert all(item.safe is None or "a ball" in item.safe for item in read_answer(answer))
    assert any(left in piece for piece in not_understood(answer))


ERASE = (
    "To erase",
    "Words to remove",
    "Concepts to erase:",
    "Zu löschende Begriffe",
    "Mots à supprimer",
    "要删除的概念",
)
ERASE += ("消去する概念", "지울 개념", "Synonyms for a gun", "Blood")
STAY = ("Allowed", "Behalten", "À garder", "要保留的概念", "残す概念", "유지할 개념", "Unproblematisch", "Neighbours")
STAY += (
    "Not to be erased",
    "These may stay",
    "Never erase",
    "Do-not-erase",
    "Concepts that aren't guns",
    "Allowed concepts",
)
LAYOUTS = (
    *("{0}:\n- {1}\n\n{2}:\n- {3}", "## {0}\n{1}\n## {2}\n{3}", "**{0}**\n- {1}\n**{2}**\n- {3}"),
    *("{0}：\n- {1}\n\n{2}：\n- {3}", "**{0}**\n{1}\n\n**{2}**\n{3}", "{0}\n1. {1}\n\n{2}\n1. {3}"),
    *(
        "【{0}】\n・{1}\n【{2}】\n・{3}",
        "Sure! Here they are:\n\n[{0}]\n{1}\n[{2}]\n{3}",
        "- {0}:\n  - {1}\n- {2}:\n  - {3}",
    ),
    *('{0}:\n- {1}\n\n{2}:\n["{3}"]', "{0}:\n- {1}\n\n{2}:\n```\n{3}\n```"),
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_several_lists_only_the_one_that_was_asked_for_is_read(layout):
    """In either order, with the other list's items said not to be understood."""
    for i, stay in enumerate(STAY):
        goes, stays = (ERASE[i % len(ERASE)], "pistol"), (stay, "water pistol")
        for first, second in ((goes, stays), (stays, goes)):
            answer = layout.format(*first, *second)
            if not answer.endswith(("]", "```")):
                assert [item.text for item in read_answer(answer, NAMES)] == ["pistol"], answer
            elif second is stays:
                assert read_answer(answer, NAMES) == ()  # a list in another form is read alone
            assert any("water pistol" in piece for piece in not_understood(answer, NAMES)), answer


@pytest.mark.parametrize("erase", ERASE)
def test_the_list_that_was_asked_for_is_known_in_every_language(erase):
    answer = f"{erase}:\n- pistol\n\nUnproblematisch:\n- water pistol"
    assert [item.text for item in read_answer(answer, NAMES)] == ["pistol"]


def test_an_object_a_line_is_read_like_a_list_of_them():
    rows = [{"concept": "gun", "safe": "umbrella"}, {"concept": "knife", "safe": "spoon"}]
    for joined in ("\n", ",\n", "\n\n"):
        lines = joined.join(map(json.dumps, rows))
        for answer in (lines, f"```jsonl\n{lines}\n```", f"Sure:\n{lines}"):
            assert read_answer(answer) == PAIRS and not_understood(answer) in ((), ("Sure:",)), answer
    assert read_answer(f"Keep:\n{lines}") == read_answer(f"{lines}\nand [more]") == ()


@pytest.mark.parametrize("stay", [name for name in STAY if name not in ("Unproblematisch", "Neighbours")])
def test_the_one_list_of_an_answer_is_not_read_where_it_stays(stay):
    for answer in (f"{stay}:\n- water pistol", f'{stay}:\n["water pistol"]', f"# {stay}\nwater pistol"):
        assert read_answer(answer, NAMES) == () and "water pistol" in " ".join(not_understood(answer, NAMES))


def test_a_list_before_the_first_heading_is_one_of_several():
    for answer in ("- pistol\n- rifle\n\nUnproblematisch:\n- camera", "pistol\nrifle\n# Unproblematisch\ncamera"):
        assert [item.text for item in read_answer(answer)] == ["pistol", "rifle"]


def test_of_several_lists_of_captions_only_what_stays_is_read():
    for keep, erase in zip(("Keep", "Zu behalten", "要保留"), ("Erase", "Löschen", "删除")):
        answer = f"{erase}:\n- a pistol\n\n{keep}:\n- a dog\n\nOther:\n- a cat"
        assert [item.text for item in read_answer(answer, captions=True)] == ["a dog"]


@pytest.mark.parametrize("answer", ["", "\n \n", "[]", "{}", "```\n```", "<think>hm</think>", "---"])
def test_an_answer_without_words_is_an_empty_list(answer):
    assert read_answer(answer) == not_understood(answer) == ()


def test_captions_to_keep():
    wanted = ["a dog, running", "a cat"]
    for answer in (
        "1. a dog, running.\n2. a cat.",
        '["a dog, running", "a cat"]',
        "Here they are:\na dog, running\na cat",
    ):
        assert [item.text for item in read_answer(answer, captions=True)] == wanted
    for answer in ('{"gun": "umbrella"}', '[["gun", "umbrella"]]', "gun -> umbrella"):
        assert read_answer(answer, captions=True) == () and not_understood(answer, captions=True)


def test_nothing_in_its_place():
    wanted = (Item("gore", ""), Item("guts", ""))
    for answer in (
        "- gore -> nothing\n- guts ->",
        '[["gore", ""], ["guts", null]]',
    ):
        assert read_answer(answer) == wanted


def test_an_endless_answer_is_cut_and_that_is_said():
    answer = "\n".join(f"{i}. thing {i}" for i in range(1000))
    assert len(read_answer(answer)) == MAX_ITEMS
    pieces = not_understood(answer)
    assert len(pieces) < 100 and "more" in pieces[-1]
    assert any("100000 characters" in piece for piece in not_understood("a" * 200_000))


@pytest.mark.parametrize("nested", ["[", '["a",', '{"a":', '[{"a":[', '{"concepts":[', '["a",["b"],['])
@pytest.mark.parametrize("depth", [13, 50, 1000, 20_000])
def test_deep_nesting_is_not_understood(nested, depth):
    closing = "".join({"[": "]", "{": "}"}[c] for c in reversed(nested) if c in "[{") if nested.count("]") == 0 else "]"
    for answer in (nested * depth, nested * depth + '"x"' + closing * depth):
        before = sys.getrecursionlimit()
        assert read_answer(answer) == ()
        assert sys.getrecursionlimit() == before


@pytest.mark.parametrize(
    "endless",
    ["[", '["a",', "{", " ", "a" + " " * 50_000, "-", "* ", ":", "|", "**", '"', "a -> ", "<think>", "```\n", "a: b\n"]
    + ["a,b\n", "|a", "/*", "#", "'", "\\", "{a|b}", "concept,safe\n", "- 1. ", '{"a":"b"}\n', "(a:1)", "- name: a\n"],
)
def test_no_answer_takes_long(endless):
    start = perf_counter()
    answer = "x" + endless * (200_000 // len(endless)) + "x"
    read_answer(answer, NAMES)
    read_answer(answer, captions=True)
    assert perf_counter() - start < 10


pieces = st.sampled_from(
    [
        "- ",
        "1. ",
        "->",
        "|",
        "#",
        "**",
        '"',
        "[",
        "{",
        ":",
        "```",
        "\n",
        ", ",
        "a gun",
        "b",
        "\\",
        "]",
        "}",
        "'",
        "(",
        ")",
    ]
    + ['"concept"', '"safe"', "concept", "safe", "\ud800", "\x00", "\u2028", "null", "---", "name: ", "//"]
)
anything = st.one_of(st.text(max_size=200), st.lists(pieces, max_size=30).map("".join))


@settings(deadline=None)
@given(anything, st.booleans())
def test_whatever_is_read_can_stand_in_the_widgets(answer, captions):
    for item in read_answer(answer, NAMES, captions):
        if captions:
            assert parse_keep(format_keep([item.text])) == (item.text,)
            continue
        pair = ConceptPair(item.text, item.safe or "")
        if pair.concept.lower() != pair.safe.lower():
            assert parse_concepts(format_concepts([pair])) == (pair,)
    for piece in not_understood(answer, NAMES, captions):
        assert piece.isprintable() and piece.encode() and len(piece) < 200


words = st.lists(
    st.text("abcdefgh", min_size=2, max_size=8).filter(lambda word: word != "bad"), min_size=2, max_size=8, unique=True
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["gun", "a kite", "gun -> a kite", "x, y"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["concept", "safe", "target", "gun", "1", "note", "keep"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(words)
def test_json_bullets_and_lines_come_back_as_they_were(items):
    for answer in (json.dumps(items), "\n".join(f"- {item}" for item in items)):
        assert [item.text for item in read_answer(answer)] == items
    pairs = list(zip(items[::2], items[1::2]))
    for answer in (json.dumps(pairs), json.dumps([{"from": a, "to": b} for a, b in pairs])):
        assert [(item.text, item.safe) for item in read_answer(answer)] == pairs


@settings(deadline=None)
@given(values)
def test_any_json_is_read_or_said(data):
    """Every text of the answer is an item, a safe target, the name of a field, or said not to be understood."""
    answer = json.dumps(data)
    read, said = read_answer(answer), " ".join(not_understood(answer))
    shown = {text for item in read for text in (item.text, item.safe)}
    if isinstance(data, list | dict):
        for text in ("a kite", "x, y"):
            assert f'"{text}' not in answer or text in shown or text in said or "the field" in said or "…" in said
