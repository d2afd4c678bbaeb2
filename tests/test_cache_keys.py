"""The same erasure gives the same map whatever was erased before: caches know all that embeddings depend on."""

import logging

import pytest
import torch

CAPTIONS = tuple(f"a {thing} on a table" for thing in "cup dog gun lamp book knife star".split())


@pytest.fixture
def moment(pack, tmp_path):
    """moment(encoder) -> P over a few captions, cached in this test's folder; moment(encoder, None) does not cache."""
    keep_moment = pack.ops.closed_form.preserve.keep_moment
    return lambda encoder, folder=tmp_path: keep_moment(CAPTIONS, encoder, folder).moment


def t5_kinds():
    """CLIPs of several model families that are loaded from one file of T5 weights."""
    from comfy.text_encoders import genmo, lt, pixart_t5

    return {
        "pixart": (pixart_t5.PixArtTokenizer, pixart_t5.pixart_te()),
        "mochi": (genmo.MochiT5Tokenizer, genmo.mochi_te()),
        "ltxv": (lt.LTXVT5Tokenizer, lt.ltxv_te()),
    }


def load(kind):
    import comfy.sd
    import comfy.supported_models_base

    small = dict(d_ff=64, d_kv=16, d_model=32, num_heads=2, num_layers=2)
    target = comfy.supported_models_base.ClipTarget(*t5_kinds()[kind])
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32, "t5xxl_model_config": small})
    noise = torch.Generator().manual_seed(0)
    for name, weight in sorted(clip.cond_stage_model.named_parameters()):
        weight.data = torch.randn(weight.shape, generator=noise) * (1 if "norm" in name else 0.1)
    return clip


def with_min_length(clip):
    clip = clip.clone()
    clip.set_tokenizer_option("t5xxl_min_length", 96)
    return clip


def test_t5_weights_under_several_model_types_and_options_are_cached_apart(comfy_host, pack, moment):
    encoder = pack.host.sequence_encoder.SequenceEncoder
    clips = [load(kind) for kind in t5_kinds()]
    clips += [with_min_length(clip) for clip in clips]
    with torch.inference_mode():
        expected = [moment(encoder(clip), None) for clip in clips]
        found = [moment(encoder(clip)) for _ in range(2) for clip in clips]
    assert len({P.sum().item() for P in expected}) > 3  # the variants do differ
    for P, wanted in zip(found, expected + expected):
        assert torch.equal(P, wanted)


def hooked(clip, seed):
    """CLIP with a LoRA by Set CLIP Hooks."""
    import comfy.hooks
    import comfy_extras.nodes_hooks as stock

    key = next(k for k in clip.patcher.model_state_dict() if k.endswith("mlp.fc1.weight"))
    shape = clip.patcher.model_state_dict()[key].shape
    change = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    hook = comfy.hooks.WeightHook(strength_model=0.0, strength_clip=1.0)
    hook.weights, hook.weights_clip = {}, {key: ("diff", (change,))}
    hook.need_weight_init = False
    group = comfy.hooks.HookGroup()
    group.add(hook)
    return stock.SetClipHooks().apply_hooks(clip, False, True, group)[0]


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_merge_is_encoded_as_the_prompts_are(pack, make_clip, kind):
    """Before it is loaded and after, and a plain encoder while a merge of it is loaded."""
    import comfy_extras.nodes_model_merging as stock

    plain, other = make_clip(seed=0, kind=kind), make_clip(seed=1, kind=kind)
    merged = stock.CLIPMergeSimple().merge(plain, other, 0.5)[0]
    with torch.inference_mode():
        for clip in (merged, plain, merged):
            encoder = pack.host.encoders.ClipEncoder(clip)
            z = encoder.encode([encoder.tokenize("a gun")], 77)
            assert torch.equal(z, clip.encode_from_tokens(clip.tokenize("a gun")).float())


def test_a_lora_by_hooks_is_cached_apart(pack, moment, make_clip):
    encoder = pack.host.encoders.ClipEncoder
    clip = make_clip()
    clips = [clip, hooked(clip, 1), hooked(clip, 2)]
    with torch.inference_mode():
        prints = {encoder(clip).fingerprint for clip in clips}
        expected = [moment(encoder(clip), None) for clip in clips]
        found = [moment(encoder(clip)) for _ in range(2) for clip in clips]
    assert len(prints) == 3
    assert len({P.sum().item() for P in expected}) == 3
    for P, wanted in zip(found, expected + expected):
        assert torch.equal(P, wanted)


def test_the_two_encoders_of_one_clip_are_cached_side_by_side(pack, moment, make_clip, caplog):
    clip = make_clip(kind="sd3", width=4096)
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        sequence = pack.host.sequence_encoder.SequenceEncoder(clip)
        rows = pack.host.encoders.ClipEncoder(clip, ("l", "g"))
        expected = [moment(encoder, None) for encoder in (sequence, rows)]
        for _ in range(2):
            assert [torch.equal(moment(encoder), P) for encoder, P in zip((sequence, rows), expected)] == [True, True]
    assert not caplog.records
