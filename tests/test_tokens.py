"""Roles by token ids, with the real CLIP tokenizer."""

import pytest

from trce_ops.text.tokens import CHUNK, TokenError, TokenWeights, content, find_keyword, first_eot, locate

SOT, EOT = 49406, 49407

PROMPTS = ["", "a cat", "a photo of a xylophonist", "Van Gogh's sunset/sunrise, anticlockwise", "(nudity:1.2) photo"]


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def tokenize(request, pack, make_clip):
    return pack.host.encoders.ClipEncoder(make_clip(kind=request.param)).tokenize


@pytest.mark.parametrize("prompt", PROMPTS)
def test_first_eot_stands_right_after_the_last_content_token(tokenize, comfy_host, prompt):
    import comfy.sd1_clip

    bpe = comfy.sd1_clip.SDTokenizer().tokenizer
    plain = bpe(prompt)["input_ids"]  # SoT, content, EoT; no chunks and no padding
    ids = tokenize(prompt)
    assert len(ids) == CHUNK
    assert first_eot(ids, EOT) == len(plain) - 1
    assert content(ids, EOT) == tuple(plain[1:-1])


def test_words_that_split_move_the_eot_past_the_word_count(tokenize):
    prompt = "a photo of a xylophonist"
    assert first_eot(tokenize(prompt), EOT) > len(prompt.split()) + 1


def test_pads_are_known_by_place_not_by_id(pack, make_clip):
    for kind, pad in (("sd1", EOT), ("sd2", 0)):
        ids = pack.host.encoders.ClipEncoder(make_clip(kind=kind)).tokenize("a cat")
        roles = locate(ids, (), EOT)
        assert roles.first_eot == 3
        assert roles.pads == tuple(range(4, 77))
        assert {ids[p] for p in roles.pads} == {pad}


@pytest.mark.parametrize("concept", ["cat", "Van Gogh", "xylophonist", "a gun", "(nudity:1.2)"])
def test_keyword_tokens_are_the_concept_in_its_sentence(tokenize, concept):
    from trce_ops.text.concepts import ConceptPair
    from trce_ops.text.prompts import expand

    for prompt in expand([ConceptPair(concept)]):
        ids, own = tokenize(prompt.source), content(tokenize(prompt.keyword), EOT)
        assert tuple(ids[p] for p in locate(ids, own, EOT).keyword) == own
        assert prompt.keyword in (concept, concept.removeprefix("a "))


def test_every_occurrence_of_a_keyword_counts():
    assert find_keyword((SOT, 5, 6, 7, 5, 6, EOT, EOT), (5, 6), EOT) == (1, 2, 4, 5)
    assert find_keyword((SOT, 5, EOT), (), EOT) == ()
    with pytest.raises(TokenError, match="do not occur"):
        find_keyword((SOT, 5, EOT, EOT), (EOT,), EOT)


def test_a_full_chunk_has_no_pads(tokenize):
    ids = tokenize(" ".join(["cat"] * 75))
    assert locate(ids, (), EOT).first_eot == 76
    assert locate(ids, (), EOT).pads == ()


def test_longer_prompts_and_textual_inversions_are_refused(tokenize, pack):
    with pytest.raises(pack.ops.text.tokens.TokenError, match="75 tokens"):
        tokenize(" ".join(["cat"] * 76))
    with pytest.raises(pack.ops.text.tokens.TokenError, match="embedding:"):
        tokenize("a photo of embedding:someone")


def test_no_eot_is_an_error():
    with pytest.raises(TokenError):
        first_eot((SOT, 5), EOT)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_weights_that_cannot_work_are_refused(weight):
    with pytest.raises(TokenError):
        TokenWeights(keyword=0, first_eot=weight)
