"""The concepts and keep widgets: what is read, and what is refused with a sentence that says what to write."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trce_ops.text.captions import BENIGN_CAPTIONS
from trce_ops.text.concept_line import MAX_LINE_LENGTH, NOTHING, clean
from trce_ops.text.concepts import (
    MAX_LINES,
    ConceptError,
    ConceptPair,
    format_concepts,
    format_keep,
    full_width,
    left_out_numbers,
    parse_concepts,
    parse_keep,
    read_as_one,
)
from trce_ops.text.prompts import PLAIN, TEMPLATES, expand, in_company, is_quality

PAIR = ConceptPair("a star", "a circle")


def test_lines_arrows_and_comments():
    text = "# artists\nVan Gogh -> a painting\n\n  blood  # alone\nC# -> a language\nvan gogh -> A Painting\n"
    assert parse_concepts(text) == (
        ConceptPair("Van Gogh", "a painting"),
        ConceptPair("blood", ""),
        ConceptPair("C#", "a language"),
    )


ARROWS = (
    *("->", "-->", "--->", "=>", "==>", "~>", "->>", "- >", "–>", "—>", "−>", "‐>", "─>", "──►", "-»", "=>>", "ー>"),
    *("→", "⇒", "⟶", "⟹", "➔", "➜", "➝", "➞", "➡", "➡\ufe0f", "⇨", "⇢", "⮕", "↦", "↣", "⇾", "￫", "🡒", "🠖", "⇀", "⤳"),
    *("-\u3009", "=\u276f"),
    *("－＞", "＝＞", "ー＞", "-\u200b>"),
)


@pytest.mark.parametrize("arrow", ARROWS)
@pytest.mark.parametrize("space", ["", " ", "\t", "\u3000", "\u00a0"])
def test_every_arrow_that_people_type_is_an_arrow(arrow, space):
    assert parse_concepts(f"a star{space}{arrow}{space}a circle") == (PAIR,)


@pytest.mark.parametrize("arrow", [">", ">>", "»", "＞", "▶"])
def test_the_head_of_an_arrow_alone_needs_spaces(arrow):
    assert parse_concepts(f"a star {arrow} a circle") == (PAIR,)
    for line in (f"star{arrow}circle", f"star{arrow} circle"):
        if arrow in (">", "＞", ">>"):
            with pytest.raises(ConceptError, match="'->'"):
                parse_concepts(line)


@pytest.mark.parametrize(
    "sign", ["<-", "←", "<--", "⇐", "<=", "<->", "↔", "⇔", "⇄", "↑", "=", ":=", "==", "-", "–", "/"]
)
def test_what_points_elsewhere_or_nowhere_is_refused(sign):
    with pytest.raises(ConceptError, match=r"Line 1 of 'concepts' .*'->'"):
        parse_concepts(f"a star {sign} a circle")


@pytest.mark.parametrize(
    "written",
    [
        *(
            "a star",
            "(a star:1.3)",
            "(a star:.9)",
            "(a star:1,3)",
            "(a star: -1)",
            "(a star)",
            "((a star))",
            "(((a star)))",
        ),
        *(
            "[a star]",
            "[[a star]]",
            "[a star:0.5]",
            "((a (star:1.1)):1.2)",
            "{a star}",
            "{{a star}}",
            "（a star：1.3）",
        ),
        *('"a star"', "'a star'", "“a star”", "„a star“", "”a star”", "‘a star’", "«a star»", "‹a star›", "「a star」"),
        *("『a star』", "`a star`", "**a star**", "*a star*", "＂a star＂", '"a star”', '("a star":1.3)', '"a star",'),
        *(
            "a  star ",
            "a\u00a0star",
            "ａ\u3000ｓｔａｒ",
            "a st\u00adar",
            "\ufeffa star",
            "a star\u200b",
            "a star,",
            "a star;",
        ),
    ],
)
def test_marks_around_a_text_are_no_part_of_it(written):
    assert parse_concepts(f"{written} -> a circle") == (PAIR,)
    assert parse_concepts(f"a circle -> {written}") == (ConceptPair("a circle", "a star"),)
    assert parse_concepts(written) == (ConceptPair("a star"),)
    assert parse_keep(written.rstrip(",;")) == ("a star",)


@pytest.mark.parametrize(
    "mark",
    [
        *(
            "- ",
            "* ",
            "+ ",
            "– ",
            "• ",
            "•",
            "‣ ",
            "● ",
            "▪",
            "・",
            "> ",
            "> - ",
            "1. ",
            "1) ",
            "(1) ",
            "12. ",
            "1.",
            "１．",
        ),
        *("1、", "a) ", "(b) ", "① ", "②", "1️⃣ ", "- [ ] ", "- [x] ", "☐ ", "✅ ", "- 1. ", "-\t"),
    ],
)
def test_bullets_and_numbers(mark):
    assert parse_concepts(f"{mark}a star -> a circle") == (PAIR,)
    assert parse_keep(f"{mark}a star") == ("a star",)


@pytest.mark.parametrize(
    "line", ["# weapons", "// weapons", "//weapons", "  # weapons", "＃weapons", "／／ weapons", "/* weapons */"]
)
def test_comments(line):
    assert parse_concepts(f"{line}\na star -> a circle {line}") == (PAIR,)
    assert parse_keep(f"a star {line}\n{line}") == ("a star",)


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("{gun|rifle}", ["gun", "rifle"]),
        ("a {gun|hunting rifle}", ["a gun", "a hunting rifle"]),
        ("{a|the} {gun|rifle}", ["a gun", "a rifle", "the gun", "the rifle"]),
        ("{gun|{rifle|knife}}", ["gun", "rifle", "knife"]),
        ("｛gun｜rifle｝", ["gun", "rifle"]),
        ("gun | {rifle|knife}", ["gun", "rifle", "knife"]),
        ("(gun | rifle)", ["gun", "rifle"]),
        ("(gun|rifle:1.2)", ["gun", "rifle"]),
        ("(gun:1.2) | [rifle]", ["gun", "rifle"]),
        ('"gun" | “rifle”', ["gun", "rifle"]),
        ("gun|gun", ["gun"]),
    ],
)
def test_alternatives(line, names):
    assert parse_concepts(f"{line} -> an umbrella") == tuple(ConceptPair(name, "an umbrella") for name in names)
    assert list(parse_keep(line)) == names


@pytest.mark.parametrize(
    "name",
    [
        *(
            "C#",
            "C++",
            "R2-D2",
            "AT-AT",
            "O'Keeffe",
            "Georgia O’Keeffe",
            "rock 'n' roll",
            "'90s car",
            '12" vinyl',
            "AC/DC",
        ),
        *("black & white", "50% grey", "3.5mm jack", "24/7", "16:9", "@_@"),
        *(
            "Ke$ha",
            "1girl, holding gun",
            "holding_gun",
            "2girls, multiple girls",
            "U.S. flag",
            'Dwayne "The Rock" Johnson',
        ),
        *(
            "^_^",
            "S.H.I.E.L.D.",
            "Disney+",
            "BLACK AND WHITE",
            "銃",
            "🔫",
            "1984",
            "T-shirt",
            "Motörhead",
            "50¢",
        ),
        *("the artist known as P!nk", "fly~", "x-ray", "Yu-Gi-Oh!", "What If...?", "WALL·E", "Ocean's 11"),
    ],
)
def test_signs_that_belong_to_a_name_stay(name):
    assert parse_concepts(name) == (ConceptPair(name),)
    assert parse_concepts(f"{name} -> a circle") == (ConceptPair(name, "a circle"),)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (r"saber \(fate\)", "saber (fate)"),
        (r"\[REC\]", "[REC]"),
        (r"\{x\}", "{x}"),
        ('"1. FC Köln"', "1. FC Köln"),
        ('"gun, rifle"', "gun, rifle"),
        ('"Spider-Man: No Way Home"', "Spider-Man: No Way Home"),
        (r"nier\:automata", "nier:automata"),
        (r"gun\, rifle", "gun, rifle"),
        ('">_<"', ">_<"),
        ('":d"', ":d"),
        ('"A - B"', "A - B"),
        (r"\"Weird Al\" Yankovic", '"Weird Al" Yankovic'),
        (r"the \#1 fan", "the #1 fan"),
        (r"a\\b", r"a\b"),
        (r"a \-\> b", "a -> b"),
        (r"a\|b", "a|b"),
    ],
)
def test_quotes_and_backslashes_make_signs_plain_text(written, name):
    assert parse_concepts(f"{written} -> a circle") == (ConceptPair(name, "a circle"),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'concepts' is empty"),
        ("# only a comment", "'concepts' is empty"),
        ("a\n-> b", "Line 2 .* no concept"),
        ("a -> b -> c", "Line 1 .* more than one '->'"),
        ("a → b ⇒ c", "Line 1 .* more than one '->'"),
        ("Gun -> gun", "Line 1 .* onto itself"),
        ("a -> b\na -> c", "Line 2 .* second safe target"),
        ("x" * 1000, "Line 1 .* 1000 characters"),
        ("\n".join(f"thing {i}" for i in range(MAX_LINES + 1)), "257 lines"),
        ("gun, rifle, knife -> an umbrella", "Line 1 .* several names .*'|'.* quotation marks"),
        ("gun; rifle", "several names"),
        ("銃、ライフル", "several names"),
        ("枪，刀", "several names"),
        ("Cigarette: Lollipop", "colon"),
        ("GUN:UMBRELLA", "colon"),
        ("枪：雨伞", "colon"),
        ("(gun:120%)", "colon"),
        ("a cigarette—a lollipop", "could be an arrow"),
        ("gun –umbrella", "could be an arrow"),
        ("gun --umbrella", "could be an arrow"),
        ("gun … umbrella", "between spaces"),
        ("replace a gun with an umbrella", "like an order"),
        ("turn a gun into an umbrella", "like an order"),
        ("an umbrella instead of a gun", "like an order"),
        ("a gun to an umbrella", "like an order"),
        ("remove the gun", "like an order"),
        ("gun/pistol", "several names"),
        ("gun or pistol", "several names"),
        ("gun aka pistol", "several names"),
        ("1. gun 2. pistol", "several names"),
        ("gun 1.3", "weight"),
        ("a gun -&gt; a cake", "HTML"),
        ("saber [fate]", r"write \\\[ and"),
        ("gun x1.3", "weight"),
        ("gun -> a kite | a ball", "more than one safe target"),
        ("gun -> {a kite|a ball}", "more than one safe target"),
        ("a (red) star", r"brackets .*\\\("),
        ("(a star:1.3", "brackets"),
        ("a star)", "brackets"),
        ("[star:circle:0.5]", "a colon"),
        (":-)", "brackets"),
        ("{gun", "brace"),
        ("{2$$gun|rifle}", "wildcard"),
        ("__weapons__", "wildcard"),
        ("<lora:gun:0.5>", "LoRA"),
        ("https://example.com/gun", "web address"),
        ("a picture of www.example.com", "web address"),
        ("gun\tan umbrella", "a tab"),
        ("gun: an umbrella", "a colon"),
        ("Weapons:", "a colon"),
        ("a star:1.3", "a colon"),
        ("a star::2", "a colon"),
        ('"a star -> a circle"', "quotation mark"),
        ('"a star', "quotation mark"),
        ('a star"', "quotation mark"),
        ('"gun": "umbrella"', "quotation mark"),
        ('{"gun": "umbrella"}', "quotation mark"),
        ("{'gun': 'umbrella'}", "quotation mark"),
        ('["gun", "umbrella"]', "several names"),
        ("; weapons", "begins or ends with punctuation"),
        ("-- weapons", "begins or ends with punctuation"),
        ("/* weapons", "begins or ends with punctuation"),
        ("<!-- weapons -->", "'->'"),
        ("gun -&gt; an umbrella", "HTML"),
        (r"gun \rightarrow umbrella", "a backslash"),
        *((f"a star {sign} a circle", "'->'") for sign in "👉☞"),
        ("a star:a circle", "'->'"),
        ("a star ›a circle", "'->'"),
        *((f"a star{weight}", "a weight") for weight in ("++", "@0.5", "^1.2", " *1.2", " × 2")),
        ("gun AND rifle", "joins prompts"),
        ("gun BREAK rifle", "joins prompts"),
        ("a \x00 gun", r"U\+0000"),
        ("{a|b|c|d}" * 5, "more than 256"),
    ],
)
def test_what_is_not_understood_is_a_sentence(text, says):
    with pytest.raises(ConceptError, match=says) as error:
        parse_concepts(text)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


ORDERS = (
    *("a gun becomes an umbrella", "please replace a gun with an umbrella", "guns are replaced by umbrellas"),
    *("Pistole durch Regenschirm ersetzen", "Ersetze Pistole durch Regenschirm", "die Pistole wird zu einem Schirm"),
    *("eine Pistole wird durch einen Schirm ersetzt", "Schirm statt Pistole", "Pistole entfernen"),
    *("remplacer un pistolet par un parapluie", "un parapluie au lieu d'un pistolet", "supprimez le pistolet"),
    *(
        "un pistolet devient un parapluie",
        "transformer un pistolet en parapluie",
        "un parapluie à la place du pistolet",
    ),
    *(
        "把枪换成雨伞",
        "枪 替换为 雨伞",
        "將槍替換成雨傘",
        "用雨伞代替枪",
        "请把枪变成雨伞",
        "枪改为雨伞",
        "删除 枪",
        "把枪去掉",
    ),
    *("銃を傘に置き換える", "銃を傘に変えてください", "銃を傘と入れ替える", "銃の代わりに傘", "銃を削除", "銃を消して"),
    *("총을 우산으로 바꾸기", "총을 우산으로 교체해줘", "총 대신 우산", "총을 삭제"),
)
SEVERAL = (
    "枪/手枪",
    "枪／手枪",
    "銃/拳銃",
    "총/권총",
    "총 / 권총",
    "枪/gun",
    "gun/枪",
    "銃・拳銃",
    "ナイフ・銃",
    "ﾅｲﾌ･銃",
    "ปืน/มีด",
)


@pytest.mark.parametrize(("lines", "says"), [(ORDERS, "like an order"), (SEVERAL, "several names|between spaces")])
def test_orders_and_several_names_are_no_concept_in_any_language(lines, says):
    for line in lines:
        for written in (line, f"- {line}", f"a cat -> {line}"):
            with pytest.raises(ConceptError, match=says):
                parse_concepts(written)
        assert parse_concepts(f'"{line}"') == (ConceptPair(unicodedata.normalize("NFC", clean(line))),)


@pytest.mark.parametrize(
    "name",
    [
        *("Mädchen mit dem Perlenohrring", "der Herr der Ringe", "Stadt mit Turm", "Mann mit Hut", "Löschzug", "Statt"),
        *("la Liberté guidant le peuple", "un homme en noir", "une place de marché", "La Place", "lieu de culte"),
        *(
            "将军",
            "把手",
            "用户",
            "以色列",
            "删除线",
            "请柬",
            "替身",
            "改革",
            "换装",
            "变形金刚",
            "文森特·梵谷",
            "消除游戏",
        ),
        *(
            "銃を持つ少女",
            "世界を変える少女",
            "涙を消す魔法",
            "水を飲む猫",
            "フィンセント・ファン・ゴッホ",
            "ハンド・ガン",
            "代わり",
        ),
        *("총을 든 소녀", "길로 가는 남자", "물을 포도주로 바꾸는 예수", "대신", "로봇", "삭제 버튼"),
        *("AC/DC", "24/7", "What If...?", "wait...what", "a boy who came home", "becoming", "changeling", "Turner"),
    ],
)
def test_ordinary_names_in_any_language_are_no_orders(name):
    assert parse_concepts(f"{name} -> a circle") == (ConceptPair(name, "a circle"),)


def test_columns_of_spaces_and_dots_between_words_are_no_name():
    for spaces in ("   ", " " * 10, "\u3000\u3000\u3000", "\u00a0 \u2003 "):
        for line in ("gun{}umbrella", "gun{}an umbrella # a thing", "C++{}Rust", "1. gun{}umbrella", "'gun'{}umbrella"):
            with pytest.raises(ConceptError, match="many spaces"):
                parse_concepts(line.format(spaces))
        for line in (
            "gun{0}->{0}umbrella",
            "gun{0}| gun ->{0}umbrella{0}# a{0}b",
            "1.{0}gun -> 'umbrella'{0}",
            "-{0}gun{0}-> umbrella",
        ):
            assert parse_concepts(line.format(spaces)) == (ConceptPair("gun", "umbrella"),)
        assert parse_keep(f"a{spaces}dog") == ("a dog",)
        assert parse_concepts(f'"a{spaces}gun"') == (ConceptPair("a gun"),)
    for line in ("gun ... umbrella", "gun .. umbrella", "gun …… umbrella"):
        with pytest.raises(ConceptError, match="between spaces"):
            parse_concepts(line)


def test_a_long_line_without_a_safe_target_is_shown():
    for line in (
        "a man who holds a gun",
        "1girl, holding gun",
        "AC/DC",
        "a gun...a rifle",
        "在雨中拿着手枪站在桥上的女孩",
    ):
        assert read_as_one(f"blood\n- {line}  # so\ngun -> a kite") == [f"Read as one concept: '{line}'"]
        assert read_as_one(f"{line} -> a cat") == []
    for line in ("gun and pistol -> umbrella", "Messer und Gabel -> Tisch", "rock & roll", "枪 刀 血", "枪②刀"):
        assert read_as_one(line) == [f"Read as one concept: '{line.partition(' ->')[0]}'"]
    for line in (
        "Vincent van Gogh",
        "the girl with pearls",
        "C++",
        "R2-D2",
        "Yu-Gi-Oh!",
        "フィンセント・ファン・ゴッホ",
        "拿着手枪的女孩",
    ):
        assert read_as_one(line) == []
    assert read_as_one("\n".join(f"1girl, thing {i}" for i in range(9)))[0].endswith("thing 4', ...")


def test_what_is_read_of_full_width_letters():
    assert full_width("ＧＵＮ -> 傘\n１９８４　ＢＯＯＫ | a gun # ＣＯＭＭＥＮＴ\n（銃） －＞ 箱") == {
        "ＧＵＮ": "GUN",
        "１９８４　ＢＯＯＫ": "1984 BOOK",
    }
    assert full_width("初音　ミク -> 傘\nゴジラ＆コング\nVincent\u00a0van\u00a0Gogh－＞ a house　# ＸＹ") == {
        "初音　ミク": "初音 ミク",
        "ゴジラ＆コング": "ゴジラ&コング",
        "Vincent\u00a0van\u00a0Gogh": "Vincent van Gogh",
    }


def test_numbers_that_do_not_count_the_lines_are_shown():
    assert left_out_numbers("2. Weltkrieg -> eine Wiese") == ["Read without the number: '2. Weltkrieg -> eine Wiese'"]
    assert left_out_numbers("gun\n3. Reich") == ["Read without the number: '3. Reich'"]
    assert left_out_numbers("1. gun\n# so\n2. knife\n3) sword") == left_out_numbers('"2. Weltkrieg"') == []


@pytest.mark.parametrize(
    "line",
    [
        *["gun replaced by umbrella", "gun to umbrella", "don't draw guns", "no nudity", "never a gun", "gun 80%"],
        *[
            "keine Waffen",
            "ohne Waffen",
            "pas de fusil",
            "不要枪",
            "銃なし",
            "총 없이",
            "Pistole oder Messer",
            "a. gun",
        ],
        *["gun \u23e9 umbrella"],
    ],
)
def test_orders_and_lists_of_other_kinds_are_refused(line):
    with pytest.raises(ConceptError, match="Line 1"):
        parse_concepts(line)
    assert parse_concepts(f'"{line}"')[0].concept == line


def test_an_arrow_from_an_emoji_keyboard():
    assert parse_concepts("gun \u25b6\ufe0f umbrella") == (ConceptPair("gun", "umbrella"),)
    assert parse_concepts("a stop sign -> no hat") == (ConceptPair("a stop sign", "no hat"),)


def test_nothing_in_its_place():
    for line in (
        "gun",
        "gun.",
        "gun -> empty.",
        "gun -> (nil)",
        "gun ->",
        "gun -> nothing",
        "gun -> None",
        "gun -> n/a",
        'gun -> ""',
        "gun -> ''",
        'gun -> "nothing"',
        "gun -> *none*",
        "gun -> delete",
        "gun -> ∅",
        "gun -> 无",
    ):
        assert parse_concepts(line) == (ConceptPair("gun"),)


def test_keep_is_a_list_of_captions():
    text = "a dog\n\n# not this\na   dog\na portrait, oil on canvas: soft light - no frame"
    assert parse_keep(text) == ("a dog", "a portrait, oil on canvas: soft light - no frame")
    assert parse_keep("1girl, (long hair:1.2), holding_gun") == ("1girl, long hair, holding_gun",)
    assert parse_keep("") == ()
    for line, says in (
        *(("a cat -> a dog", "an arrow"), ("a (red) dog", "brackets"), ("<lora:x:1>", "LoRA")),
        *(('["a knife", "a fork"]', "JSON"), ('"a knife","a fork"', "several captions"), ("a knife:1.5", "colon")),
        *(("keep: a knife", "colon"), ("1. a knife: a tool", "colon"), ("a knife BREAK a fork", "joins prompts")),
        ("a knife\ta fork", "a tab"),
    ):
        with pytest.raises(ConceptError, match=f"Line 2 of 'keep' .*{says}"):
            parse_keep(f"a dog\n{line}")


signs = st.sampled_from(
    list("()[]{}|\\\"'`*#/-=><~→←:;,.:!?_^&%$@+“”«»「」—·•0123 ") + ["a gun", "->", "//", "1. ", "AND"]
)
texts = st.one_of(st.text(max_size=20), st.lists(signs, min_size=1, max_size=8).map("".join))


def is_text(text):
    return (
        text == clean(text)
        and any(c.isalnum() for c in text)
        and not any(unicodedata.category(c) in ("Cc", "Cs") or ord(c) >= 0xF0000 for c in text)
        and 4 * len(text) < MAX_LINE_LENGTH // 2
    )


names = texts.map(clean).filter(is_text)


@settings(deadline=None)
@given(names, st.just("") | names)
def test_any_pair_is_read_as_it_was_written_down(concept, safe):
    pair = ConceptPair(concept, safe)
    if concept.lower() != safe.lower() and safe.lower().removesuffix(".") not in NOTHING:
        assert parse_concepts(format_concepts([pair])) == (pair,)


@settings(deadline=None)
@given(names)
def test_any_caption_is_read_as_it_was_written_down(caption):
    assert parse_keep(format_keep([caption])) == (caption,)


@settings(deadline=None)
@given(st.lists(texts, max_size=4).map("\n".join))
def test_what_is_read_is_read_the_same_again(text):
    try:
        pairs = parse_concepts(text)
    except ConceptError as error:
        assert "'concepts'" in str(error)
    else:
        assert parse_concepts(format_concepts(pairs)) == pairs


def test_lists_are_written_without_needless_marks():
    assert format_concepts([PAIR, ConceptPair("saber (fate)", "a man, smiling"), ConceptPair("C#")]) == (
        "a star -> a circle\nsaber \\(fate\\) -> a man, smiling\nC#"
    )
    assert parse_concepts(format_concepts([ConceptPair("1.", "0")])) == (ConceptPair("1.", "0"),)
    assert format_keep(["a dog, running: fast", "gun (toy)"]) == "a dog, running: fast\ngun \\(toy\\)"


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


def test_a_quality_is_written_without_an_article():
    assert all(map(is_quality, ("red", "line art style", "Van Gogh", "cigarettes")))
    assert not any(map(is_quality, ("a gun", "an egg", "The Joker", "*0123456789ab")))


def test_a_concept_goes_around_with_what_is_kept():
    company = in_company(["a dog on a beach", "an egg {1}", "x" * 1000])
    found = {pair.source: pair.target for pair in expand([ConceptPair("a gun", "a pen"), ConceptPair("red")], company)}
    assert found == {
        "a dog on a beach, a gun": "a dog on a beach, a pen",
        "a gun , a dog on a beach": "a pen , a dog on a beach",
        "an egg {1}, a gun": "an egg {1}, a pen",
        "a gun , an egg {1}": "a pen , an egg {1}",
        "a dog on a beach, red": "",
        "red , a dog on a beach": "",
        "an egg {1}, red": "",
        "red , an egg {1}": "",
    }
