"""Prompts as a tree: every common beginning once, and the same embeddings as prompt by prompt."""

import pytest
import torch

from trce_ops.text.concepts import ConceptPair
from trce_ops.text.embeddings import embed_pairs
from trce_ops.text.prefix_tree import prefix_trees
from trce_ops.text.prompts import expand
from trce_ops.text.tokens import TokenWeights

PROMPTS = expand([ConceptPair("a gun", "an umbrella"), ConceptPair("violence and war", "peace")])


def path_tokens(tree, ids):
    return tuple(tree.tokens[i] for i in tree.paths[ids])


@pytest.mark.parametrize("nodes", [1, 8, 256])
def test_trees_hold_every_prompt_and_every_beginning_once(nodes):
    lengths = {(0, 5, 6, 1): 4, (0, 5, 7, 8, 1): 5, (0, 5, 6, 9, 1): 4, (0, 1, 1): 2, (0, 5): 2}
    trees = list(prefix_trees(lengths, nodes))
    assert sorted(ids for tree in trees for ids in tree.paths) == sorted(lengths)
    for tree in trees:
        assert len(tree) <= max(nodes, max(lengths[ids] for ids in tree.paths))
        beginnings = {ids[: n + 1] for ids in tree.paths for n in range(lengths[ids])}
        assert len(tree) == len(beginnings)
        sees = tree.attention_mask()
        assert not sees.triu(1).any()
        for ids, path in tree.paths.items():
            assert path_tokens(tree, ids) == ids[: lengths[ids]]
            assert [tree.places[i] for i in path] == list(range(lengths[ids]))
            assert sees[path[-1]].nonzero()[:, 0].tolist() == path
    if nodes == 256:
        assert len(trees) == 1
        assert len(trees[0]) == 9  # 0; 0 1; 0 5; 0 5 6 and its two ends; 0 5 7 8 1


@pytest.mark.parametrize("weights", [TokenWeights(), TokenWeights(0, 0, 1, 0), TokenWeights(1, 1, 1, 1)])
def test_pairs_from_trees_are_those_from_prompts(encoder, weights):
    class TreeEncoder(type(encoder)):
        def encode_tree(self, tree):
            sees = tree.attention_mask().float()
            x = self.table[torch.tensor(tree.tokens)]
            mean = sees @ x / sees.sum(1, keepdim=True)
            return torch.tanh(x + 2 * mean) + self.places[tree.places]

    plain, tree = embed_pairs(PROMPTS, encoder, weights), embed_pairs(PROMPTS, TreeEncoder(), weights)
    assert tree.roles == plain.roles
    assert torch.allclose(tree.sources, plain.sources, atol=1e-6)
    assert torch.allclose(tree.targets, plain.targets, atol=1e-6)


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("skip", [None, -2])
def test_comfyui_encoder_gives_what_comfyui_gives(pack, make_clip, kind, skip):
    clip = make_clip(kind=kind)
    clip.clip_layer(skip)
    encoder = pack.host.encoders.ClipEncoder(clip)
    texts = {encoder.tokenize(prompt.source): prompt.source for prompt in PROMPTS}
    before = {key: (w.data_ptr(), w._version) for key, w in clip.cond_stage_model.state_dict().items()}
    lengths = {ids: 77 if text == "a gun" else 12 for ids, text in texts.items()}
    for tree in prefix_trees(lengths):
        z = encoder.encode_tree(tree)
        for ids, path in tree.paths.items():
            whole, pooled = clip.encode_from_tokens(clip.tokenize(texts[ids]), return_pooled=True)
            assert torch.allclose(z[path], whole[0, : lengths[ids]], atol=1e-5)
            if kind == "sdxl" and encoder.eot_id in ids[: lengths[ids]]:
                assert torch.allclose(encoder.pooled[ids], pooled[0], atol=1e-5)
    after = {key: (w.data_ptr(), w._version) for key, w in clip.cond_stage_model.state_dict().items()}
    assert before == after
