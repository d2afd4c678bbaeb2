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
    sizes = {path.stem: path.stat().st_size for path in (demo / "emoji" / "weights").iterdir()}
    assert sizes.pop("flow") <= 20e6
    assert sum(sizes.values()) <= 45e6


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
    torch.testing.assert_close(world.encode(PROMPTS).sequence, theirs, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def flow(demo):
    """The flow model as it ships, and as ComfyUI's objects."""
    from compact import load_flow
    from in_comfyui import load_flow_world

    return load_flow(), load_flow_world()


def test_the_flow_model_is_a_stable_diffusion_3_that_computes_what_was_trained(flow):
    from flow import read, transformer

    compact, world = flow
    assert type(world.model.model.model_config).__name__ == "SD3"
    network = transformer()
    network.load_state_dict(compact.transformer)
    noise = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    t, asked = torch.tensor([900.0, 500.0, 20.0]), world.encode(PROMPTS)
    narrow, pooled = (z.float() for z in read(compact.text_encoder, PROMPTS))
    with torch.inference_mode():
        ours = network(noise, t, asked.sequence[..., :384], asked.pooled[:, :384])
        theirs = world.model.model.diffusion_model(noise, t, context=asked.sequence, y=asked.pooled)
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    assert not asked.sequence[..., 384:].any() and not asked.pooled[:, 384:].any()
    for ours, theirs in ((narrow, asked.sequence[..., :384]), (pooled, asked.pooled[:, :384])):  # read in bf16
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_the_flow_models_autoencoder_agrees_with_the_stock_one(flow):
    import comfy.sd
    from checkpoint import expand_autoencoder

    compact, world = flow
    vae = comfy.sd.VAE(sd=expand_autoencoder(compact.autoencoder))
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        theirs = world.model.model.process_latent_in(vae.encode(pictures.permute(0, 2, 3, 1)))
        ours = compact.autoencoder.encode(pictures)
    torch.testing.assert_close(theirs, ours, atol=1e-3, rtol=1e-3)


def test_a_concept_is_erased_from_the_flow_model_and_another_one_stays(flow):
    from in_comfyui import pack

    _, world = flow
    lent = pack("nodes.host.lend").lend(world.model, world.clip)
    concepts = pack("trce_ops.text.concepts")
    given = concepts.parse_concepts("a crown -> a top hat"), concepts.parse_keep("a ring\na heart")
    settings = pack("trce_ops.methods").METHODS["trce-closed-form"].settings
    captions = ["a dog on the beach", "a cup of tea", "a red car"]
    lent |= {"captions": captions}
    delta, _ = pack("trce_ops.methods").erase_with("trce-closed-form", *given, settings=settings, **lent)
    erased = pack("nodes.host.apply").apply_delta(world.model, delta, 1.0)
    prompts = ["an icon of a crown, noto style", "a crown on blue, 3d style", "a banana in the twemoji style"]
    seen = {}
    for name, model in (("before", world.model), ("after", erased)):
        seen[name] = world.look(world.draw(model, prompts, seed=0, steps=12))
    assert seen["before"].recognised("crown").tolist() == [True, True, False]
    assert not seen["after"].recognised("crown").any()
    assert all(verdict.recognised("banana")[2] for verdict in seen.values())


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


def test_the_tuned_example_erases_cigarettes(world, stock):
    """On the narrow network, as the demo's report measures it; on the checkpoint it changes the same outputs."""
    import erasing
    from in_comfyui import pack
    from tune_example import TUNED, to_narrow, to_stock_size

    apply_delta, delta = pack("nodes.host.apply").apply_delta, pack("trce_ops.delta").load_delta(TUNED)
    assert delta.tuned
    narrow = to_narrow(delta)
    for module, change in to_stock_size(narrow).tuned.items():
        assert torch.equal(change.dense(), delta.tuned[module].dense()), module
    assert len(apply_delta(stock[0], delta, 1.0).patches) >= len(delta.tuned)
    assert pack("nodes.host.fingerprint").encoder_fingerprint(stock[1]) == delta.info.encoder

    wanted = [p for p in erasing.prompts("cigarette", 12, seed=3) if p.label in ("explicit", "described", "kept")]
    context = world.encode([p.text for p in wanted])
    before, after = (
        erasing.score(world, model, wanted, context, seed=4)
        for model in (world.model, apply_delta(world.model, narrow, 1.0))
    )
    assert before["explicit"].hard >= 0.6 and before["described"].hard >= 0.75
    assert after["explicit"].hard <= 0.1 and after["described"].hard <= 0.1
    assert after["kept"].hard >= before["kept"].hard - 0.2
