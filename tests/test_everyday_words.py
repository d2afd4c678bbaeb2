"""Everyday words as what is kept: all of them, but for those near to a concept."""

import pytest
import torch

from trce_ops import everyday_words
from trce_ops.concepts import parse_concepts
from trce_ops.erase import WORDS_SHARE, EraseSettings, erase, keep_moments, moment
from trce_ops.everyday_words import NEAR, far_words, keep_words, likened, sentence
from trce_ops.neighbours import embed_texts, likeness
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
    noise = torch.Generator().manual_seed(0)
    found = {likened(2, ("a dog", "an owl", "wet"), noise) for _ in range(30)}
    assert found == {f"a wet {thing} {like} an apple" for thing in ("dog", "owl") for like in everyday_words.LIKENESSES}
    assert likened(2, ("an owl",), noise).startswith("an owl ")


def test_far_words_mention_no_concept_and_are_not_like_one(encoder):
    rows = far_words(["a gun", "rivers"], encoder)
    z = embed_texts(["gun", "rivers", *WORDS], encoder)
    alike = likeness(z[:2], z[2:]).amax(0)
    assert rows == [row for row in range(len(WORDS)) if "gun" not in WORDS[row].lower() and alike[row] < NEAR]
    assert 0 < len(rows) < 5


def test_the_moment_is_that_of_the_far_sentences_alone_without_padding(encoder, tmp_path):
    for _ in range(2):  # computed, and from the cache
        kept = keep_words(["a gun"], encoder, tmp_path, NOTHING)
        P, captions = torch.zeros(24, 24, dtype=torch.float64), set()
        near = set(range(len(WORDS))) - set(far_words(["a gun"], encoder))
        lost = {encoder.tokenize(sentence(row)) for row in near}
        for row in range(len(WORDS)):
            ids = encoder.tokenize(sentence(row))
            if ids in captions | lost:
                continue
            captions.add(ids)
            end = ids.index(encoder.eot_id) + 1
            k = encoder.encode([ids], end)[0].double()
            P += k.mT @ k / end
        assert len(kept.samples) == len(captions) > 0
        torch.testing.assert_close(kept.moment, P / len(captions), rtol=1e-6, atol=1e-9)


def test_words_that_the_encoder_does_not_tell_apart_are_near_together(encoder, monkeypatch):
    monkeypatch.setattr(everyday_words, "SENTENCES", ("{}",))
    monkeypatch.setattr(everyday_words, "far_words", lambda *_: [1, 2, 3])  # not 5, which has the tokens of 2
    kept = keep_words(["x"], encoder, None, NOTHING)
    assert len(kept.samples) == 2


def test_nothing_far_is_nothing_kept(encoder, monkeypatch):
    monkeypatch.setattr(everyday_words, "WORDS", ("gun", "big gun"))
    assert keep_words(["a gun"], encoder, None, NOTHING) is None
    kept = keep_moments(["a dog"], ["a gun"], ("{}",), encoder, None, NOTHING, words=True)
    assert len(kept) == 2
    assert torch.equal(moment(kept), torch.stack([part.moment for part in kept.values()]).mean(0))


def test_words_count_beside_captions_and_keep_list(encoder):
    kept = keep_moments(["a dog"], ["a gun"], ("{}",), encoder, None, NOTHING, words=True)
    without = keep_moments(["a dog"], ["a gun"], ("{}",), encoder, None, NOTHING)
    expected = moment(without) + WORDS_SHARE * kept["everyday words"].moment
    torch.testing.assert_close(moment(kept), expected)


def test_an_erasure_moves_kept_words_less(encoder):
    def moved(keep_words):
        pairs, settings = parse_concepts("a gun -> a cake"), EraseSettings(keep_words=keep_words)
        delta, report = erase(pairs, ["a dog"], encoder, settings, family="sd1")
        assert delta.info.settings["keep_words"] is keep_words
        assert ("everyday words" in report.kept) is keep_words
        far = [sentence(row) for row in far_words(["a gun"], encoder)]
        assert not any(mentions(text, ["a gun"]) for text in far)
        k = embed_texts(far, encoder)
        return delta.context_map.shift(k).norm() / k.norm()

    assert moved(True) < 0.9 * moved(False)
