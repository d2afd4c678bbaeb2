"""The emoji world: its words, its shipped weights, the checkpoint of stock size, and an erasure that can be seen."""

import random
import re

import pytest
import torch

PROMPTS = ["please draw a cigarette on a blue background, 3d style", "something with animal, predator", ""]


@pytest.fixture(scope="module")
def narrow(demo):
    """The compact model's networks."""
    from compact import load_compact

    return load_compact()


@pytest.fixture(scope="module")
def world(demo):
    """The same as ComfyUI's objects."""
    from in_comfyui import load_world

    return load_world()


@pytest.fixture(scope="module")
def stock(demo, narrow):
    """What ComfyUI's Load Checkpoint makes of the expanded checkpoint: (MODEL, CLIP, VAE)."""
    import comfy.sd
    from checkpoint import expand

    state = {name: value.float() for name, value in expand(narrow).items()}
    return comfy.sd.load_state_dict_guess_config(state)[:3]


# -- the words


def test_words_of_reported_and_tuning_concepts(demo):
    from captions import words
    from world import STYLES, concept_names, neighbours, targets

    for target in targets():
        if target.name in STYLES:
            assert target.safe in STYLES
            continue
        assert target.name in concept_names() and target.safe in concept_names()
        assert set(neighbours()[target.name]) <= set(concept_names())
        groups = words()[target.name]
        assert len(groups["described held out"]) >= 4 and len(groups["described"]) >= 2


def test_a_phrase_names_neither_its_concept_nor_another(demo):
    from captions import words
    from world import concept_names

    for groups in words().values():
        for _, phrase in [*groups["described"], *groups["described held out"]]:
            padded = f" {phrase.lower().replace(',', ' ')} "
            assert not any(f" {name} " in padded or f" {name}s " in padded for name in concept_names()), phrase


def test_training_captions_hold_nothing_that_is_held_out(demo):
    from captions import HELD_OUT_TEMPLATES, training_caption, words
    from world import concept_names

    rng = random.Random(0)
    starts = tuple(template.split("{}")[0] for template in HELD_OUT_TEMPLATES)
    for index, name in enumerate(concept_names()):
        secret = words()[name]["described held out"]
        seen = {phrase for _, phrase in words()[name]["described"]}
        assert not seen & {phrase for _, phrase in secret}
        keys = [set(phrase.split(", ")) for kind, phrase in secret if kind == "keywords"]
        said = [set(phrase.split(", ")) for kind, phrase in words()[name]["described"] if kind == "keywords"]
        assert not any(some <= whole for some in keys for whole in said)
        texts = [training_caption(index, rng).text for _ in range(40)]
        assert not any(text.startswith(starts) for text in texts)
        found = [re.search(rf"\b{re.escape(phrase)}\b", text) for _, phrase in secret for text in texts]
        assert not any(found)


def test_prompts_depend_on_the_seed_alone_and_spread_over_the_concepts(demo):
    from captions import prompts
    from world import concepts

    state = random.getstate()
    found = prompts("explicit", 2 * len(concepts()), seed=3)
    assert found == prompts("explicit", 2 * len(concepts()), seed=3)
    assert random.getstate() == state
    assert sorted(caption.concept for caption in found) == sorted(2 * list(range(len(concepts()))))
    with pytest.raises(ValueError, match="unknown kind of prompt 'spoken'"):
        prompts("spoken", 1)


# -- the weights


def test_the_weights_are_small(demo):
    assert sum(path.stat().st_size for path in (demo / "emoji" / "weights").iterdir()) <= 45e6


def test_stock_loader_sees_a_stable_diffusion_1_checkpoint(stock):
    found, clip, vae = stock
    assert type(found.model.model_config).__name__ == "SD15"
    assert type(found.model.model_sampling).__mro__[1].__name__ in ("ModelSamplingDiscrete", "EPS")
    assert type(clip.cond_stage_model).__name__ == "SD1ClipModel"
    assert type(vae.first_stage_model).__name__ == "TAESD"


def test_stock_text_encoder_agrees_with_the_narrow_one(stock, narrow, world):
    from text_encoder import WIDTH, pad, token_rows

    _, clip, _ = stock
    with torch.inference_mode():
        theirs = torch.cat([clip.encode_from_tokens(clip.tokenize(prompt)) for prompt in PROMPTS]).float()
        ours = narrow.text_encoder(pad(token_rows(PROMPTS)))
    assert theirs.shape == (len(PROMPTS), 77, 768)
    assert not theirs[..., WIDTH:].any()
    torch.testing.assert_close(theirs[..., :WIDTH], ours, atol=1e-4, rtol=0)
    torch.testing.assert_close(world.encode(PROMPTS), theirs, atol=1e-4, rtol=0)


def test_stock_unet_agrees_with_the_narrow_one(stock, narrow, world):
    found, _, _ = stock
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    context = torch.randn(2, 77, 384, generator=generator)
    timesteps = torch.tensor([500, 20])
    wide = torch.cat([context, torch.zeros_like(context)], 2)
    with torch.inference_mode():
        theirs = found.model.diffusion_model.float()(latents, timesteps, wide)
        ours = narrow.unet(latents, timesteps, context)
        in_comfyui = world.model.model.diffusion_model(latents, timesteps, wide)
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)
    torch.testing.assert_close(in_comfyui, ours, atol=1e-4, rtol=0)


def test_stock_autoencoder_agrees_with_the_narrow_one(stock, narrow):
    _, _, vae = stock
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        theirs = vae.encode(pictures.permute(0, 2, 3, 1)) * 0.18215
        ours = narrow.autoencoder.encode(pictures)
        again = vae.decode(theirs / 0.18215).permute(0, 3, 1, 2)
        torch.testing.assert_close(theirs, ours, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(again, narrow.autoencoder.decode(ours).clamp(0, 1), atol=1e-3, rtol=0)


def test_stock_controlnet_agrees_with_the_narrow_one(demo):
    """What ComfyUI's ControlNet adds to the UNet, and what the narrow one adds."""
    import comfy.controlnet
    from checkpoint import expand_controlnet
    from controlnet import load_controlnet

    options = {"dtype": torch.float32}
    stock = comfy.controlnet.load_controlnet_state_dict(expand_controlnet(), model_options=options).control_model
    generator = torch.Generator().manual_seed(0)
    latents, outlines = torch.randn(2, 4, 8, 8, generator=generator), torch.rand(2, 3, 64, 64, generator=generator)
    context = torch.randn(2, 77, 384, generator=generator)
    timesteps = torch.tensor([3, 700])
    with torch.inference_mode():
        added = stock(latents, outlines, timesteps, torch.cat([context, torch.zeros_like(context)], 2))
        ours = load_controlnet()(latents, outlines, timesteps, context)
    theirs = [*added["output"], *added["middle"]]
    assert len(theirs) == len(ours) == 5
    for wide, narrow in zip(theirs, ours, strict=True):
        assert narrow.abs().max() > 0.01
        torch.testing.assert_close(wide[:, : narrow.shape[1]], narrow, atol=1e-4, rtol=0)
        assert not wide[:, narrow.shape[1] :].any()


# -- an erasure


def test_erasing_a_crown_erases_crowns(demo):
    """The default settings of TRCE Erase on 24 pictures of each sort; `benchmarks/` has the real figures."""
    import demo_world
    import erasing

    bench = demo_world.load()
    wanted = [p for p in erasing.prompts("crown", 24, seed=3) if p.label in ("explicit", "kept")]
    context = bench.world.encode([p.text for p in wanted])
    erased, _, _ = bench.erase("crown", demo_world.pack("trce_ops.closed_form.erase").EraseSettings())
    before, after = (
        erasing.score(bench.world, model, wanted, context, seed=4) for model in (bench.world.model, erased)
    )
    assert before["explicit"].hard >= 0.75
    assert after["explicit"].hard <= 0.1
    assert after["kept"].hard >= before["kept"].hard - 0.15
