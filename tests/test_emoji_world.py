"""The emoji world: its words, its shipped weights, and the checkpoint that ComfyUI's stock loader reads."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "demo" / "emoji" / "weights" / "model.safetensors"


def forget_demo_modules():
    """The drawn world's scripts have the same names: whichever world a test file uses is imported anew."""
    demo = str(ROOT / "demo")
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(demo):
            del sys.modules[name]


@pytest.fixture(scope="module")
def emoji():
    """demo/emoji on sys.path, as when one of its scripts runs."""
    forget_demo_modules()
    sys.path.insert(0, str(ROOT / "demo" / "emoji"))
    yield ROOT / "demo" / "emoji"
    sys.path.remove(str(ROOT / "demo" / "emoji"))
    forget_demo_modules()


@pytest.fixture(scope="module")
def model(emoji):
    """The shipped model, or the same networks with random weights as long as none has shipped."""
    import compact
    from autoencoder import Autoencoder
    from text_encoder import TextEncoder
    from unet import UNet

    if SHIPPED.exists():
        return compact.load_compact()
    torch.manual_seed(0)
    networks = (UNet(), TextEncoder(torch.randn(49408, 384) * 0.05), Autoencoder())
    for network in networks:
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)  # layers that begin at zero would hide what is before them
            parameter.data = parameter.data.half().float()  # what an fp16 checkpoint can hold
    return compact.Model(*(network.eval().requires_grad_(False) for network in networks))


@pytest.fixture(scope="module")
def stock(comfy_host, model):
    """What ComfyUI's Load Checkpoint makes of the expanded checkpoint: (MODEL, CLIP, VAE)."""
    import comfy.sd
    from checkpoint import expand

    state = {name: value.float() for name, value in expand(model).items()}
    found, clip, vae, _ = comfy.sd.load_state_dict_guess_config(state)
    return found, clip, vae


PROMPT = "please draw a cigarette on a blue background, 3d style"


def test_stock_loader_sees_a_stable_diffusion_1_checkpoint(stock):
    found, clip, vae = stock
    assert type(found.model.model_config).__name__ == "SD15"
    assert type(found.model.model_sampling).__mro__[1].__name__ in ("ModelSamplingDiscrete", "EPS")
    assert type(clip.cond_stage_model).__name__ == "SD1ClipModel"
    assert type(vae.first_stage_model).__name__ == "TAESD"


def test_stock_text_encoder_agrees_with_the_narrow_one(stock, model):
    from text_encoder import WIDTH, pad, token_rows

    _, clip, _ = stock
    with torch.inference_mode():
        theirs = clip.encode_from_tokens(clip.tokenize(PROMPT)).float()
        ours = model.text_encoder(pad(token_rows([PROMPT])))
    assert theirs.shape == (1, 77, 768)
    assert not theirs[..., WIDTH:].any()
    torch.testing.assert_close(theirs[..., :WIDTH], ours, atol=1e-4, rtol=0)


def test_stock_unet_agrees_with_the_narrow_one(comfy_host, stock, model):
    found, _, _ = stock
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    context = torch.randn(2, 77, 384, generator=generator)
    timesteps = torch.tensor([500, 20])
    wide = torch.cat([context, torch.zeros_like(context)], 2)
    with torch.inference_mode():
        theirs = found.model.diffusion_model.float()(latents, timesteps, wide)
        ours = model.unet(latents, timesteps, context)
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)


def test_stock_autoencoder_agrees_with_the_narrow_one(stock, model):
    _, _, vae = stock
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        theirs = vae.encode(pictures.permute(0, 2, 3, 1)) * 0.18215
        ours = model.autoencoder.encode(pictures)
        again = vae.decode(theirs / 0.18215).permute(0, 3, 1, 2)
        torch.testing.assert_close(theirs, ours, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(again, model.autoencoder.decode(ours).clamp(0, 1), atol=1e-3, rtol=0)


def test_words_of_reported_and_tuning_concepts(emoji):
    from captions import words
    from world import STYLES, concepts, targets

    names = {concept.name for concept in concepts()}
    for target in targets():
        if target.name.endswith("(style)"):
            assert target.name.removesuffix(" (style)") in STYLES
            continue
        assert target.name in names and target.safe in names
        groups = words()[target.name]
        assert len(groups["described held out"]) >= 4 and len(groups["described"]) >= 2


def test_a_phrase_names_neither_its_concept_nor_another(emoji):
    from captions import words
    from world import concepts

    names = {concept.name for concept in concepts()}
    for groups in words().values():
        for _, phrase in [*groups["described"], *groups["described held out"]]:
            padded = f" {phrase.lower().replace(',', ' ')} "
            assert not any(f" {name} " in padded or f" {name}s " in padded for name in names), phrase


def test_training_captions_hold_nothing_that_is_held_out(emoji):
    import random

    from captions import HELD_OUT_TEMPLATES, training_caption, words
    from world import concepts

    rng = random.Random(0)
    starts = tuple(template.split("{}")[0] for template in HELD_OUT_TEMPLATES)
    for index, concept in enumerate(concepts()):
        secret = words()[concept.name]["described held out"]
        seen = {phrase for _, phrase in words()[concept.name]["described"]}
        assert not seen & {phrase for _, phrase in secret}
        keys = [set(phrase.split(", ")) for kind, phrase in secret if kind == "keywords"]
        said = [set(phrase.split(", ")) for kind, phrase in words()[concept.name]["described"] if kind == "keywords"]
        assert not any(some <= whole for some in keys for whole in said)
        assert not any(training_caption(index, rng).text.startswith(starts) for _ in range(40))


def test_prompts_depend_on_the_seed_alone_and_spread_over_the_concepts(emoji):
    from captions import prompts
    from world import concepts

    found = prompts("explicit", 2 * len(concepts()), seed=3)
    assert found == prompts("explicit", 2 * len(concepts()), seed=3)
    assert sorted(caption.concept for caption in found) == sorted(2 * list(range(len(concepts()))))
    with pytest.raises(ValueError, match="unknown kind of prompt 'spoken'"):
        prompts("spoken", 1)
