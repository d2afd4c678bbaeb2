"""Everyday words as what is kept: all of them, but for those near to a concept."""

import pytest
import torch

from trce_ops import everyday_words
from trce_ops.concepts import parse_concepts
from trce_ops.erase import WORDS_SHARE, EraseSettings, erase, keep_moments, moment
from trce_ops.everyday_words import FAR, SENTENCES, far_words, keep_words, look_up, sentence
from trce_ops.neighbours import embed_texts
from trce_ops.templates import mentions

WORDS = ("gun", "toy gun", "apple", "river", "Gun", "apple  ", "tree")
NOTHING = lambda *_: None  # noqa: E731


@pytest.fixture(autouse=True)
def words(monkeypatch):
    monkeypatch.setattr(everyday_words, "WORDS", WORDS)


def test_every_word_is_in_a_sentence_behind_its_article():
    assert [sentence(row) for row in (0, 2, 3)] == [
        "a gun",
        "something that looks like an apple",
        "something in the colour of a river",
    ]


def literal(concepts, G, encoder):
    """Alike for every word, by fifteen obvious lines: cosines under G once a sentence's mean over words is off."""
    root = torch.linalg.cholesky(G.double() + 1e-3 * torch.eye(24))

    def end(text):
        ids = encoder.tokenize(text)
        at = ids.index(encoder.eot_id)
        return encoder.encode([ids], at + 1)[0, at].double()

    alike = {}
    for i, form in enumerate(SENTENCES):
        z = {row: end(sentence(row)) for row in range(i, len(everyday_words.WORDS), len(SENTENCES))}
        mean = torch.stack(list(z.values())).mean(0)
        for row in z:
            pairs = [((end(form.format(concept)) - mean) @ root, (z[row] - mean) @ root) for concept in concepts]
            alike[row] = max((a @ b / (a.norm() * b.norm())).item() for a, b in pairs)
    return alike


def test_far_words_are_the_least_alike_to_all_concepts_as_the_model_reads_them(encoder, monkeypatch):
    monkeypatch.setattr(everyday_words, "WORDS", tuple("apple river tree stone cloud lamp chair bread".split()))
    K = torch.randn(40, 24, generator=torch.Generator().manual_seed(3))
    G = K.mT @ K / 40
    concepts = ["a gun", "rivers and rain"]
    alike = literal(concepts, G, encoder)
    far = far_words(look_up(concepts, encoder, G))
    assert far == sorted(sorted(alike, key=alike.get)[: len(far)])
    assert len(far) == round(FAR * len(alike))
    assert alike != pytest.approx(literal(concepts, torch.eye(24), encoder), abs=0.01)


def test_what_mentions_a_concept_is_not_far_and_words_with_the_same_tokens_count_once(encoder):
    words = look_up(["a gun"], encoder)
    assert words.rows == (0, 1, 2, 3, 5, 6)  # "a Gun" is "a gun"
    assert len(words.rows) == len({encoder.tokenize(sentence(row)) for row in range(len(WORDS))})
    assert not any("gun" in WORDS[row].lower() for row in far_words(words))
    assert far_words(words)


def test_the_moment_is_that_of_the_far_sentences_alone_without_padding(encoder, tmp_path):
    for _ in range(2):  # computed, and from the cache
        words = look_up(["a gun"], encoder, cache_dir=tmp_path)
        kept = keep_words(words, encoder, NOTHING)
        P = torch.zeros(24, 24, dtype=torch.float64)
        for row in far_words(words):
            ids = encoder.tokenize(sentence(row))
            end = ids.index(encoder.eot_id) + 1
            k = encoder.encode([ids], end)[0].double()
            P += k.mT @ k / end
        assert len(kept.samples) == len(far_words(words)) > 0
        torch.testing.assert_close(kept.moment, P / len(kept.samples), rtol=1e-6, atol=1e-9)
    assert len(list(tmp_path.iterdir())) == 1


def test_nothing_far_is_nothing_kept(encoder, monkeypatch):
    monkeypatch.setattr(everyday_words, "WORDS", ("gun", "big gun"))
    assert keep_words(look_up(["a gun"], encoder), encoder, NOTHING) is None
    report = erase(parse_concepts("a gun -> a cake"), ["a dog"], encoder, family="sd1")[1]
    assert list(report.kept) == ["everyday captions", "keep list"]


def test_words_count_beside_captions_and_keep_list(encoder):
    kept = keep_moments(["a dog"], ["a gun"], ("{}",), encoder, None, NOTHING)
    words = keep_words(look_up(["a gun"], encoder), encoder, NOTHING)
    expected = torch.stack([part.moment for part in kept.values()]).mean(0) + WORDS_SHARE * words.moment
    torch.testing.assert_close(moment({**kept, "everyday words": words}), expected)


def test_an_erasure_moves_kept_words_less(encoder):
    far = [sentence(row) for row in far_words(look_up(["a gun"], encoder))]
    assert not any(mentions(text, ["a gun"]) for text in far)
    k = embed_texts(far, encoder)

    def moved(keep_words):
        pairs, settings = parse_concepts("a gun -> a cake"), EraseSettings(keep_words=keep_words)
        delta, report = erase(pairs, ["a dog"], encoder, settings, family="sd1")
        assert delta.info.settings["keep_words"] is keep_words
        assert ("everyday words" in report.kept) is keep_words
        return delta.context_map.shift(k).norm() / k.norm()

    assert moved(True) < 0.9 * moved(False)


@pytest.mark.parametrize("concepts, kept", [("a gun -> a cake", True), ("red", False), ("a gun\nred", False)])
def test_words_are_kept_from_things_alone(encoder, concepts, kept):
    delta, report = erase(parse_concepts(concepts), ["a dog"], encoder, family="sd1")
    assert delta.info.settings["keep_words"] is ("everyday words" in report.kept) is kept
