"""Models of the public shapes with random weights, and prompts, for benchmarks/speed.py.

Speed and memory do not depend on what the weights are. How well an erasure works does, and nothing is said of it here.
"""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))

import world  # noqa: E402

SD15_ROWS = (320,) * 10 + (640,) * 10 + (1280,) * 12
SDXL_ROWS = (640,) * 20 + (1280,) * 120
TEMPLATES = 15  # prompts of every concept, as published
SAFE = "an umbrella"

# Words for things, harmless ones, since any will do to take the time: a hundred concepts.
THINGS = """pistol rifle sword dagger cannon arrow hammer ladder bottle candle lantern kettle basket barrel anchor
violin trumpet guitar piano drum flute harp bell clock compass telescope camera mirror window door bridge castle
tower church windmill lighthouse harbour boat ship submarine airplane helicopter balloon rocket train tram bus truck
bicycle wagon horse donkey camel elephant giraffe zebra lion tiger panther wolf fox bear rabbit squirrel hedgehog
parrot eagle owl swan duck chicken penguin dolphin whale shark octopus crab lobster butterfly spider beetle ant bee
rose tulip sunflower daisy cactus pine oak palm apple pear cherry banana pineapple mushroom pumpkin carrot tomato
""".split()


def load() -> SimpleNamespace:
    """ComfyUI and the modules of the pack that are timed."""
    logging.getLogger().setLevel(logging.WARNING)
    world.host_on_path()
    import comfy.sd  # noqa: F401  before anything of the pack

    name = world.load_pack().__name__
    parts = "closed_form concepts context_map delta embeddings erase preserve metric stage2 templates tokens".split()
    parts += ["tune_settings", "tuning"]
    modules = {part: importlib.import_module(f"{name}.trce_ops.{part}") for part in parts}
    return SimpleNamespace(
        **modules,
        host=importlib.import_module(f"{name}.nodes.host.folders"),
        denoiser=importlib.import_module(f"{name}.nodes.host.denoiser"),
    )


@torch.no_grad()
def randomise(module: torch.nn.Module, seed: int) -> None:
    """Plausible random values. Norms get random gain and bias: the plain ones would give all embeddings a mean of 0."""
    noise = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        if weight.ndim == 0:
            continue
        if "norm" in name:
            values = torch.rand(weight.shape, generator=noise) + (0.5 if name.endswith("weight") else -0.5)
        else:
            fan_in = weight[0].numel() if weight.ndim > 1 else 100
            values = torch.randn(weight.shape, generator=noise) / fan_in**0.5
        weight.copy_(values)


def make_clip(kind: str = "sd1"):
    """ComfyUI's CLIP of SD1.x or SDXL at full size, with the real tokenizer."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.sdxl_clip
    import comfy.supported_models_base

    classes = {
        "sd1": (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel),
        "sdxl": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel),
    }
    target = comfy.supported_models_base.ClipTarget(*classes[kind])
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
    randomise(clip.cond_stage_model, 0)
    return clip


def make_projections(rows: tuple[int, ...] = SD15_ROWS, width: int = 768) -> list[Tensor]:
    """Cross-attention keys and values (out, width)."""
    noise = torch.Generator().manual_seed(1)
    return [torch.randn(out, width, generator=noise) / width**0.5 for out in rows]


def make_model(dtype: torch.dtype = torch.float32, device: str = "cpu"):
    """ComfyUI's MODEL of SD1.5: 860 million parameters, 3.4 GB in float32."""
    import comfy.model_patcher
    import comfy.ops
    import comfy.supported_models

    config = comfy.supported_models.SD15(
        dict(
            image_size=32,
            in_channels=4,
            out_channels=4,
            model_channels=320,
            num_res_blocks=[2, 2, 2, 2],
            channel_mult=(1, 2, 4, 4),
            transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
            transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            transformer_depth_middle=1,
            context_dim=768,
            num_heads=8,
            use_spatial_transformer=True,
            use_linear_in_transformer=False,
            legacy=False,
        )
    )
    config.set_inference_dtype(dtype, None)
    config.custom_operations = comfy.ops.manual_cast
    place = torch.device(device)
    base = config.get_model({}, device=place).eval()
    randomise(base, 2)
    return comfy.model_patcher.ModelPatcher(base, place, torch.device("cpu"))


def make_prompts(pack, concepts: int, templates: int = TEMPLATES):
    """Prompt pairs: every concept in so many of the pack's sentences, all of them with one safe target."""
    pairs = [pack.concepts.ConceptPair(f"a {thing}", SAFE) for thing in THINGS[:concepts]]
    return pack.templates.expand(pairs, pack.templates.TEMPLATES[:templates])
