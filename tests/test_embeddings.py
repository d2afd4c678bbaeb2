"""Embedding pairs: the right tokens of the right prompts, encoded no further than needed and no more than once."""

import pytest
import torch

from trce_ops.text.concepts import ConceptPair
from trce_ops.text.embeddings import embed_pairs, pair_positions
from trce_ops.text.prompts import PLAIN, PromptPair, expand
from trce_ops.text.tokens import Roles, TokenError, TokenWeights

ALL = TokenWeights(sot=0.5, keyword=2, first_eot=1, pads=0.25)


def full(encoder, text):  # (77, d)
    return encoder.encode([encoder.tokenize(text)], 77)[0]


def rows(pairs, role):
    chosen = [i for i, r in enumerate(pairs.roles) if r == role]
    return pairs.sources[chosen], pairs.targets[chosen], pairs.weights[chosen]


def test_every_role_is_paired_as_documented(encoder):
    # "a gun" is 2 tokens and "an umbrella" is 3: their first EoTs are at 5 and 6.
    pairs = embed_pairs([PromptPair("a b a gun", "a b an umbrella", "a gun", "a gun", "an umbrella")], encoder, ALL)
    source, target = full(encoder, "a b a gun"), full(encoder, "a b an umbrella")
    expected = {
        "sot": ([0], [0], 0.5),
        "keyword": ([3, 4], [5, 5], 2),
        "first_eot": ([5], [6], 1),
        "pads": (list(range(6, 77)), list(range(6, 77)), 0.25),
    }
    assert len(pairs) == sum(len(p) for p, _, _ in expected.values())
    for role, (p, q, weight) in expected.items():
        c, s, w = rows(pairs, role)
        torch.testing.assert_close(c, source[p])
        torch.testing.assert_close(s, target[q])
        assert set(w.tolist()) == {weight}


def test_a_pad_before_the_targets_end_goes_to_the_targets_first_eot(encoder):
    pairs = embed_pairs([PromptPair("gun", "a b c d e", "gun", "gun", "a b c d e")], encoder, TokenWeights(0, 0, 0, 1))
    target = full(encoder, "a b c d e")
    torch.testing.assert_close(pairs.targets, target[[6, 6, 6, *range(6, 77)]])


def test_every_layer_gives_its_own_pairs(make_layered):
    encoder, *layers = make_layered()
    prompts = expand([ConceptPair("a gun", "an umbrella"), ConceptPair("blood")], ["a photo of {}"])
    pairs, alone = embed_pairs(prompts, encoder, ALL), [embed_pairs(prompts, layer, ALL) for layer in layers]
    for side in ("sources", "targets", "weights"):
        expected = torch.stack([getattr(p, side) for p in alone], 1).flatten(0, 1)
        torch.testing.assert_close(getattr(pairs, side), expected)
    assert pairs.roles[::2] == pairs.roles[1::2] == alone[0].roles
    assert pairs.concepts[::2] == pairs.concepts[1::2] == alone[0].concepts


def test_tokens_that_take_the_eots_part_go_to_the_same_place_of_the_sentence():
    """'<s> see gun by a wall </s>' -> '<s> see a wall by a wall </s>', as roles."""
    source = Roles(keyword=(2,), first_eot=6, pads=(7, 8, 9, 10), others=(1, 3, 4, 5), sot=(0,))
    target = Roles(keyword=(2, 3, 5, 6), first_eot=7, pads=(8, 9, 10), others=(1, 4), sot=(0,))
    pairs = {(role, p, q) for role, p, q, _ in pair_positions(source, target, ALL)}
    assert pairs == {
        ("sot", 0, 0),
        ("keyword", 2, 3),  # not the wall behind
        *(("first_eot", p, q) for p, q in ((1, 1), (3, 4), (4, 5), (5, 6), (6, 7))),
        *(("pads", p, q) for p, q in ((7, 7), (8, 8), (9, 9), (10, 10))),
    }
    nothing = Roles(keyword=(), first_eot=1, pads=(), others=(0,), sot=())
    assert {q for role, _, q, _ in pair_positions(source, nothing, ALL) if role != "sot"} == {1}


def test_an_empty_safe_target_is_the_first_eot_of_the_empty_prompt(encoder):
    pairs = embed_pairs(expand([ConceptPair("a gun")], PLAIN), encoder, TokenWeights(0, 1, 1, 0))
    empty = full(encoder, "")
    torch.testing.assert_close(pairs.targets, empty[[1, 1, 1]])


@pytest.mark.parametrize("weights", [TokenWeights(), TokenWeights(0, 1, 0, 0), ALL])
def test_the_prefix_gives_the_embeddings_of_all_77_positions(encoder, weights):
    prompts = expand([ConceptPair("a gun", "an umbrella"), ConceptPair("violence and war", "peace")])
    pairs = embed_pairs(prompts, encoder, weights)

    whole = type(encoder)()
    whole.encode = lambda ids, length: encoder.encode(ids, 77)[:, :length]
    expected = embed_pairs(prompts, whole, weights)
    torch.testing.assert_close(pairs.sources, expected.sources)
    torch.testing.assert_close(pairs.targets, expected.targets)


def test_only_the_causal_prefix_is_encoded(encoder):
    prompts = expand([ConceptPair(f"concept {i}", "something") for i in range(20)])
    embed_pairs(prompts, encoder, TokenWeights())
    longest = max(encoder.tokenize(prompt.source).index(encoder.eot_id) for prompt in prompts)
    lengths = [length for _, length in encoder.encoded]
    assert lengths == sorted(lengths)
    assert lengths[-1] == longest + 1 < 20


def test_a_prompt_is_encoded_once_and_a_pair_counts_once(encoder):
    same = [
        PromptPair("a gun", "peace", "a gun", "a gun", "peace"),
        PromptPair("A  GUN", "Peace", "A GUN", "A GUN", "Peace"),
    ]
    pairs = embed_pairs(same, encoder, TokenWeights(0, 0, 1, 0))
    assert len(pairs) == 1
    assert sum(n for n, _ in encoder.encoded) == 2


def test_without_prompts_there_are_no_pairs(encoder):
    pairs = embed_pairs([], encoder, TokenWeights())
    assert pairs.sources.shape == pairs.targets.shape == (0, encoder.width)


def test_progress_is_told_and_can_cancel(encoder):
    prompts = expand([ConceptPair(f"concept {i}", "something") for i in range(10)])
    told = []
    embed_pairs(prompts, encoder, TokenWeights(), lambda *step: told.append(step))
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1]

    def cancel(done, total):
        if done:
            raise KeyboardInterrupt

    encoder.encoded.clear()
    with pytest.raises(KeyboardInterrupt):
        embed_pairs(prompts, encoder, TokenWeights(), cancel)
    assert len(encoder.encoded) == 1


def test_a_prompt_that_does_not_fit_names_its_line(encoder):
    with pytest.raises(TokenError, match="line of 'word .* in 'concepts'"):
        embed_pairs(expand([ConceptPair(" ".join(["word"] * 74), "x")]), encoder, TokenWeights())


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
@pytest.mark.parametrize("skip", [None, -2])
def test_comfyui_encoder_gives_what_comfyui_gives(pack, make_clip, kind, skip):
    """Batches of prefixes through the adapter equal CLIP.encode, with clip skip, prompt by prompt."""
    clip = make_clip(kind=kind)
    clip.clip_layer(skip)
    encoder = pack.host.encoders.ClipEncoder(clip)
    texts = ["a gun", "a photo of a xylophonist in the rain", ""]
    batch = [encoder.tokenize(text) for text in texts]
    before = {key: (w.data_ptr(), w._version) for key, w in clip.cond_stage_model.state_dict().items()}
    for length in (1, 2, 9, 77):
        z = encoder.encode(batch, length)
        for row, text in zip(z, texts):
            whole = clip.encode_from_tokens(clip.tokenize(text))[0]
            assert torch.allclose(row, whole[:length], atol=1e-5)
    after = {key: (w.data_ptr(), w._version) for key, w in clip.cond_stage_model.state_dict().items()}
    assert before == after


def test_prompt_weights_are_literal_text(pack, make_clip):
    encoder = pack.host.encoders.ClipEncoder(make_clip())
    assert len(set(encoder.tokenize("(gun:1.5)"))) > len(set(encoder.tokenize("gun")))


def test_patches_on_the_clip_reach_the_embeddings(pack, make_clip):
    clip = make_clip()
    key = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    patched = clip.clone()
    patched.add_patches({key: ("diff", (torch.ones(64, 32),))}, 0.5)
    plain, changed = pack.host.encoders.ClipEncoder(clip), pack.host.encoders.ClipEncoder(patched)
    ids = [plain.tokenize("a gun")]
    assert not torch.allclose(plain.encode(ids, 4), changed.encode(ids, 4), atol=1e-3)
    assert torch.equal(plain.encode(ids, 4), pack.host.encoders.ClipEncoder(clip).encode(ids, 4))
