"""Learned words stand in prompts like any other: a word with the vector of "cat" is read as "cat" is."""

import pytest
import torch

TEXT = "a photo of a {} on a table"


@pytest.fixture
def words(pack):
    return pack.ops.text.learned_words


def encoders(pack, words, clip):
    """An encoder, and the same with a learned word; the word's name."""
    hard = pack.host.encoders.ClipEncoder(clip)
    with pack.host.soft_prompts.open_encoder(clip, False) as soft:
        vectors = soft.look_up(hard.tokenize("cat dog")[1:3]).clone()
    name = words.name_of(vectors)
    return hard, pack.host.encoders.ClipEncoder(clip, learned=words.LearnedWords({name: vectors})), name


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_a_word_is_read_as_the_words_whose_vectors_it_has(pack, words, make_clip, kind):
    hard, learned, name = encoders(pack, words, make_clip(kind=kind))
    plain, with_word = hard.tokenize(TEXT.format("cat dog")), learned.tokenize(TEXT.format(name))
    assert len(plain) == len(with_word) == 77
    assert hard.locate(plain, "cat dog") == learned.locate(with_word, name)
    torch.testing.assert_close(learned.encode([with_word], 77), hard.encode([plain], 77), rtol=0, atol=0)
    tree = {encoder: pack.ops.text.prefix_tree.PrefixTree() for encoder in (hard, learned)}
    tree[hard].add(plain, 12)
    tree[learned].add(with_word, 12)
    torch.testing.assert_close(learned.encode_tree(tree[learned]), hard.encode_tree(tree[hard]), rtol=0, atol=0)
    if kind == "sdxl":
        torch.testing.assert_close(learned.pool([with_word]), hard.pool([plain]), rtol=0, atol=0)
    assert learned.tokenize("a cat") == hard.tokenize("a cat")


def test_a_word_that_is_not_known_and_a_prompt_that_is_too_long_are_refused(pack, words, make_clip):
    hard, learned, name = encoders(pack, words, make_clip())
    with pytest.raises(ValueError, match="not known here"):
        learned.tokenize("a *000000000000")
    with pytest.raises(ValueError, match="longer than the 75 tokens"):
        learned.tokenize("cat " * 60 + name + " cat" * 14)
    assert learned.tokenize("cat " * 60 + name + " cat" * 13)[76] == learned.eot_id
    assert words.name_of(torch.ones(1, 4)) != words.name_of(torch.ones(1, 4) + 1e-3)
