"""The demo world: its drawings and language, its shipped weights, and an erasure that can be seen."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def demo(comfy_host):
    """demo/ on sys.path, as when one of its scripts runs."""
    sys.path.insert(0, str(ROOT / "demo"))
    yield ROOT / "demo"
    sys.path.remove(str(ROOT / "demo"))


@pytest.fixture(scope="module")
def world(demo):
    from world import load_world

    return load_world()


@pytest.fixture(scope="module")
def stock(demo):
    """What ComfyUI's Load Checkpoint makes of the expanded checkpoint."""
    import comfy.sd
    from build_checkpoint import COMPACT, expand
    from safetensors.torch import load_file

    checkpoint = {name: tensor.clone() for name, tensor in expand(load_file(COMPACT)).items()}
    return comfy.sd.load_state_dict_guess_config(checkpoint)


def test_drawings_depend_on_the_generator_alone(demo):
    from drawing import draw, draw_broken, random_attributes

    def batch():
        generator = torch.Generator().manual_seed(5)
        attributes = random_attributes(8, generator)
        return torch.cat([draw(attributes, generator), draw_broken(attributes, generator)])

    state = torch.get_rng_state()
    first = batch()
    assert torch.equal(first, batch())
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (16, 3, 64, 64) and 0 <= first.min() and first.max() <= 1


def test_training_never_sees_what_is_held_out(demo):
    import captions
    from drawing import COLOURS, SHAPES, STYLES

    text = captions.training_captions(3000, torch.Generator().manual_seed(0)).text
    for thing in SHAPES + COLOURS + STYLES:
        held, seen = (captions.implicit_phrasings(thing, held) for held in (True, False))
        assert len(held) == 4 and len(seen) == 12 and not set(held) & set(seen)
        assert not any(phrase in caption for phrase in held for caption in text)
        # an implicit phrasing names the thing nowhere
        named = {thing, *captions.synonyms(thing)}
        assert not any(f" {name} " in f" {phrase} " for name in named for phrase in held + seen)
    for template in captions.HELD_OUT_TEMPLATES:
        start = template.split("{}")[0]
        assert not any(caption.startswith(start) for caption in text)


def test_the_judge_knows_real_drawings_and_rejects_broken_ones(demo):
    from drawing import draw, draw_broken, random_attributes
    from judge import NONE, load_judge

    generator = torch.Generator().manual_seed(1 << 20)
    attributes = random_attributes(1500, generator)
    judge = load_judge()
    real = judge(draw(attributes, generator))
    assert (real.shape.argmax(1) == attributes.shape).float().mean() >= 0.99
    assert (real.colour.argmax(1) == attributes.colour).float().mean() >= 0.99
    broken = judge(draw_broken(attributes[:600], generator))
    assert (broken.shape.argmax(1) == NONE).float().mean() >= 0.9


def test_the_weights_are_small(demo):
    assert sum(path.stat().st_size for path in (demo / "weights").iterdir()) <= 40e6


def test_the_expanded_checkpoint_is_the_compact_model(world, stock):
    """Text embeddings, noise predictions and pictures of the stock-sized networks and of the narrow ones."""
    model, clip, vae, _ = stock
    assert type(model.model.model_config).__name__ == "SD15"
    prompts = ["a sticker of a solid yellow star on a black background", "a sheriff badge", ""]
    context = world.encode(prompts)
    ours = torch.cat([clip.encode_from_tokens(clip.tokenize(prompt)) for prompt in prompts])
    torch.testing.assert_close(ours, context, rtol=0, atol=1e-5)

    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(3, 4, 8, 8, generator=generator), torch.tensor([3.0, 500.0, 990.0])
    with torch.no_grad():
        narrow = world.model.model.diffusion_model(x, t, context)
        wide = model.model.diffusion_model(x, t, context=context)
    torch.testing.assert_close(wide.float(), narrow, rtol=0, atol=1e-4 * narrow.abs().max().item())

    with torch.no_grad():
        picture = world.autoencoder.decode(x * 0.18215).clamp(0, 1)
    torch.testing.assert_close(vae.decode(x).movedim(-1, 1), picture, rtol=0, atol=1e-4)


def test_the_expanded_controlnet_is_the_compact_one(demo):
    """What ComfyUI's ControlNet adds to the UNet, and what the narrow one adds."""
    import comfy.controlnet
    from build_checkpoint import CONTROLNET, expand_unet
    from controlnet import ControlNet
    from safetensors.torch import load_file

    compact = load_file(CONTROLNET)
    narrow = ControlNet().eval()
    narrow.load_state_dict({name: tensor.float() for name, tensor in compact.items()})
    options = {"dtype": torch.float32}
    wide = comfy.controlnet.load_controlnet_state_dict(expand_unet(compact), model_options=options).control_model

    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([3.0, 700.0])
    hint, context = torch.rand(2, 3, 64, 64, generator=generator), torch.randn(2, 77, 768, generator=generator)
    with torch.no_grad():
        added = wide(x, hint, t, context)
        ours = narrow(x, hint, t, context)
    theirs = [*added["output"], *added["middle"]]
    assert len(theirs) == len(ours) == 3
    for wide_one, narrow_one in zip(theirs, ours, strict=True):
        assert narrow_one.abs().max() > 0.01
        torch.testing.assert_close(wide_one[:, : narrow_one.shape[1]], narrow_one, rtol=0, atol=1e-4)
        assert not wide_one[:, narrow_one.shape[1] :].any()


def test_erasing_a_star_erases_stars(world, pack):
    """The default settings of TRCE Erase on 40 pictures of each sort; `benchmarks/` has the real figures."""
    import erasing

    ops, host = pack.ops, pack.host
    wanted = [p for p in erasing.prompts("star", 40, seed=3) if p.label in ("explicit", "kept")]
    context = world.encode([p.text for p in wanted])
    pairs = ops.text.concepts.parse_concepts(erasing.concepts_text("star"))
    keep = ops.text.concepts.parse_keep(erasing.keep_text("star"))
    delta, _ = ops.closed_form.erase.erase(pairs, keep, host.encoders.ClipEncoder(world.clip), family="sd1")
    before = erasing.score(world, world.model, wanted, context, seed=4)
    after = erasing.score(world, host.apply.apply_delta(world.model, delta, 1.0), wanted, context, seed=4)
    assert before["explicit"].hard >= 0.85
    assert after["explicit"].hard <= 0.1
    assert after["kept"].hard >= before["kept"].hard - 0.1
