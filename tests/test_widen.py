"""Presets, neighbours and what may join a list."""

import pytest
import torch

from trce_ops.lists.extend import neighbour_pairs, target_of, widen, widen_keep
from trce_ops.lists.llm_answer import Item
from trce_ops.lists.neighbours import embed_texts, nearest, similarities
from trce_ops.lists.presets import ERASE_PRESETS, KEEP_PRESETS
from trce_ops.lists.words import WORDS
from trce_ops.text.concepts import ConceptError, ConceptPair, format_concepts, parse_concepts, parse_keep
from trce_ops.text.spelling import mentions

GUN, BLOOD = ConceptPair("a gun", "an umbrella"), ConceptPair("blood")


def test_a_bar_is_short_for_a_line_each():
    assert parse_concepts("a gun | a  pistol->an umbrella\nblood|gore") == (
        GUN,
        ConceptPair("a pistol", "an umbrella"),
        BLOOD,
        ConceptPair("gore"),
    )
    for text in ("a | -> b", "| a", "a || b"):
        with pytest.raises(ConceptError, match=r"Line 1 .* one side of '\|'"):
            parse_concepts(text)
    with pytest.raises(ConceptError, match="300 concepts"):
        parse_concepts("\n".join("|".join(f"{i}.{j}" for j in range(3)) for i in range(100)))


@pytest.mark.parametrize("name", ERASE_PRESETS)
def test_an_erase_preset_can_be_read_and_read_again(name):
    pairs = parse_concepts(ERASE_PRESETS[name])
    assert len(pairs) >= 10
    assert parse_concepts(format_concepts(pairs)) == pairs
    assert all(pair.safe for pair in pairs)
    concepts = [pair.concept for pair in pairs]
    assert not [pair.safe for pair in pairs if mentions(pair.safe, concepts)]  # what is drawn instead is not erased


def test_presets_can_stand_below_each_other():
    assert parse_concepts("\n".join(ERASE_PRESETS.values()))
    assert parse_keep("\n".join(KEEP_PRESETS.values()))
    assert all(len(parse_keep(text)) >= 10 for text in KEEP_PRESETS.values())


@pytest.mark.parametrize(
    ("topic", "erased"), [("with sexual content", "sexual content"), ("with violence", "violence")]
)
def test_a_keep_preset_keeps_nothing_of_the_preset_it_goes_with(topic, erased):
    (text,) = (text for name, text in KEEP_PRESETS.items() if topic in name)
    concepts = [pair.concept for pair in parse_concepts(ERASE_PRESETS[erased])]
    assert not [line for line in parse_keep(text) if mentions(line, concepts)]


def test_the_words_are_many_and_each_there_once():
    assert len(WORDS) >= 1000
    assert len(set(WORDS)) == len(WORDS)
    assert all(parse_keep(word) == (word,) and "|" not in word for word in WORDS)


def test_the_target_of_an_item():
    pairs = (GUN, BLOOD)
    assert target_of(Item("pistol", "a kite", "blood"), pairs) == "a kite"
    assert target_of(Item("pistol", None, "gun"), pairs) == "an umbrella"
    assert target_of(Item("pistol", None, "a gun"), pairs) == "an umbrella"
    assert target_of(Item("pistol"), (GUN,)) == "an umbrella"
    assert target_of(Item("pistol"), pairs) == ""
    assert target_of(Item("pistol"), ()) == ""


def test_what_joins_a_list():
    additions = [
        ConceptPair(*texts) for texts in (("Gun", "x"), ("an umbrella", ""), ("a dog", ""), ("rifle", "Rifle"))
    ]
    assert widen((GUN,), additions, keep=["dog"]) == ()
    more = [ConceptPair("pistol", "a kite"), ConceptPair("a Pistol", "a cat"), ConceptPair("rifle", "a kite")]
    assert widen((GUN,), more) == (more[0], more[2])
    full = [ConceptPair(str(i)) for i in range(255)]
    assert widen(full, more) == (more[0],)


def test_what_joins_a_keep_list():
    kept, added = widen_keep(["a cat", "a red gun", "A Cat"], ["cat", "a toy gun", "a kite", "the kite"], ["a gun"])
    assert [line.lower() for line in kept] == ["a cat"]
    assert added == ("a kite",)


def test_what_is_kept_is_kept_in_any_spelling():
    more = [ConceptPair("water_pistol", "a kite"), ConceptPair("Rifle"), ConceptPair("a_gun", "a kite")]
    assert widen((GUN,), more, keep=["a water-pistol"]) == (more[1], more[2])
    kept, added = widen_keep(["holding_gun", "a cat"], ["two guns", "a gun\u2011toting dog", "a dog"], ["a gun"])
    assert (kept, added) == (("a cat",), ("a dog",))


def test_a_shared_neighbour_goes_to_the_most_alike():
    found = [[("pistol", 0.9), ("wound", 0.4)], [("gore", 0.95), ("wound", 0.7)]]
    assert neighbour_pairs((GUN, BLOOD), found) == {
        ConceptPair("gore"): 0.95,
        ConceptPair("pistol", "an umbrella"): 0.9,
        ConceptPair("wound"): 0.7,
    }


def test_neighbours_by_fifteen_obvious_lines(encoder):
    texts, pool = ["red gun", "dog"], ["a gun in rain", "gun", "dog", "a wet dogma", "sea", "red", "big red gun"]

    def slow(text):
        ids = encoder.tokenize(text)
        return encoder.encode([ids], 77)[0, ids.index(encoder.eot_id)]

    bare_pool = [word.removeprefix("a ") for word in pool]
    mean = torch.stack([slow(word) for word in bare_pool]).mean(0)
    expected = []
    for text in texts:
        a = slow(text) - mean
        row = {
            w: torch.cosine_similarity(a, slow(b) - mean, dim=0).item()
            for w, b in zip(pool, bare_pool)
            if w not in (text, f"big {text}")
        }
        expected.append(sorted(row.items(), key=lambda item: -item[1])[:3])
    found = nearest(texts, pool, encoder, 3)
    assert [[w for w, _ in row] for row in found] == [[w for w, _ in row] for row in expected]
    for row, right in zip(found, expected):
        assert [x for _, x in row] == pytest.approx([x for _, x in right], abs=1e-5)
    assert all(x >= 0.3 for row in nearest(texts, pool, encoder, 3, 0.3) for _, x in row)


def test_similarity_is_without_what_all_texts_have_in_common(encoder):
    z = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(similarities(z + 100, z + 100), similarities(z, z), atol=1e-3)
    assert torch.allclose(similarities(z, z).diag(), torch.ones(5), atol=1e-6)
    assert embed_texts(["a dog", "dog dog"], encoder).shape == (2, 24)
