"""Models of the public shapes with random weights, prompts for them, and a way to draw.

Speed, memory and exactness do not depend on what the weights are. How well an erasure works does, and nothing is said
of it here. The small ones, a few channels wide, are there to try a benchmark out.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock
from uuid import uuid4

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))

from in_comfyui import host_on_path, pack  # noqa: E402

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


@dataclass(frozen=True)
class Shape:
    """A family's networks."""

    config: str  # of comfy.supported_models
    unet: dict  # what ComfyUI reads off a checkpoint
    width: int  # of the text that the UNet reads
    pooled: int  # of its pooled vector, 0 without one
    resolution: int  # pixels a side of what it draws
    clip: dict  # of comfy.sd.CLIP's model_options


COMMON = dict(in_channels=4, out_channels=4, image_size=32, use_spatial_transformer=True, legacy=False)
SDXL_COMMON = COMMON | dict(num_classes="sequential", use_linear_in_transformer=True, use_temporal_attention=False)
SD15_UNET = COMMON | dict(
    model_channels=320,
    num_res_blocks=[2, 2, 2, 2],
    channel_mult=(1, 2, 4, 4),
    transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
    transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    transformer_depth_middle=1,
    context_dim=768,
    num_heads=8,
    use_linear_in_transformer=False,
)
SDXL_UNET = SDXL_COMMON | dict(
    model_channels=320,
    num_res_blocks=[2, 2, 2],
    channel_mult=(1, 2, 4),
    transformer_depth=[0, 0, 2, 2, 10, 10],
    transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10],
    transformer_depth_middle=10,
    context_dim=2048,
    num_head_channels=64,
    adm_in_channels=2816,
)
SMALL_UNET = dict(model_channels=32, num_res_blocks=[1, 1], channel_mult=(1, 2), transformer_depth_middle=1)
SMALL_SD15 = SD15_UNET | SMALL_UNET | dict(transformer_depth=[1, 1], transformer_depth_output=[1] * 4, context_dim=32)
SMALL_SDXL = SDXL_UNET | SMALL_UNET
SMALL_SDXL |= dict(transformer_depth=[0, 1], transformer_depth_output=[0, 0, 1, 1], context_dim=80)
SMALL_SDXL |= dict(num_head_channels=16, adm_in_channels=48 + 1536)
SMALL_L = dict(num_hidden_layers=3, hidden_size=32, num_attention_heads=2, intermediate_size=64)
SMALL_CLIPS = {"clip_l_model_config": SMALL_L, "clip_g_model_config": SMALL_L | dict(hidden_size=48)}

SHAPES = {"sd1": Shape("SD15", SD15_UNET, 768, 0, 512, {}), "sdxl": Shape("SDXL", SDXL_UNET, 2048, 1280, 1024, {})}
SMALL_SHAPES = {
    "sd1": Shape("SD15", SMALL_SD15, 32, 0, 64, SMALL_CLIPS),
    "sdxl": Shape("SDXL", SMALL_SDXL, 80, 48, 64, SMALL_CLIPS),
}


def load(dynamic_vram: bool = False) -> None:
    """ComfyUI, quietly; what pack() gives needs it. dynamic_vram: with it, as on NVIDIA cards by default."""
    logging.getLogger().setLevel(logging.WARNING)
    if dynamic_vram:  # first: ComfyUI's modules take the library as it is when they are imported
        import comfy_aimdo.control

        comfy_aimdo.control.init()
    host_on_path()
    import comfy.sd  # noqa: F401  before anything of the pack

    if dynamic_vram:
        _enable_dynamic_vram()


@torch.no_grad()
def randomise(module: torch.nn.Module, seed: int) -> None:
    """Plausible random values. Norms get random gain and bias: the plain ones would give all embeddings a mean of 0."""
    noise = None
    for name, weight in module.named_parameters():
        noise = noise or torch.Generator(weight.device).manual_seed(seed)
        if weight.ndim == 0:
            continue
        if "norm" in name:
            values = torch.rand(weight.shape, generator=noise, device=noise.device)
            values += 0.5 if name.endswith("weight") else -0.5
        else:
            fan_in = weight[0].numel() if weight.ndim > 1 else 100
            values = torch.randn(weight.shape, generator=noise, device=noise.device) / fan_in**0.5
        weight.copy_(values)
        weight.requires_grad_(False)


def _enable_dynamic_vram() -> None:
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import comfy_aimdo.control

    devices = [device.index for device in comfy.model_management.get_all_torch_devices()]
    if not comfy_aimdo.control.init_devices((index, 0) for index in devices):
        raise RuntimeError("DynamicVRAM does not start on this machine")
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True


def _whole_layers():
    """While open, layers have weights at once: with DynamicVRAM they get them from a file, and here is none."""
    import comfy.memory_management

    return mock.patch.object(comfy.memory_management, "aimdo_enabled", False)


def make_clip(kind: str = "sd1", shape: Shape | None = None, disable_dynamic: bool = False):
    """ComfyUI's CLIP of SD1.x or SDXL with the real tokenizer."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.sdxl_clip
    import comfy.supported_models_base

    classes = {
        "sd1": (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel),
        "sdxl": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel),
    }
    target = comfy.supported_models_base.ClipTarget(*classes[kind])
    options = (shape or SHAPES[kind]).clip
    given = {"dtype": torch.float32, **options}
    with _whole_layers():
        clip = comfy.sd.CLIP(target, model_options=given, disable_dynamic=disable_dynamic)
    randomise(clip.cond_stage_model, 0)
    clip.patcher.cached_patcher_init = lambda disable_dynamic: make_clip(kind, shape, disable_dynamic).patcher, ()
    return clip


def make_projections(rows: tuple[int, ...] = SD15_ROWS, width: int = 768) -> list[Tensor]:
    """Cross-attention keys and values (out, width)."""
    noise = torch.Generator().manual_seed(1)
    return [torch.randn(out, width, generator=noise) / width**0.5 for out in rows]


def make_model(
    shape: Shape = SHAPES["sd1"],
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    disable_dynamic: bool = False,
):
    """ComfyUI's MODEL. SD1.5 has 860 million parameters, SDXL 2.6 billion."""
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import comfy.ops
    import comfy.supported_models

    config = getattr(comfy.supported_models, shape.config)(dict(shape.unet))
    computed = torch.float16 if device == "cuda" else torch.float32
    config.set_inference_dtype(dtype, computed if dtype.itemsize == 1 else None)  # nothing is computed in fp8
    config.custom_operations = comfy.ops.manual_cast
    cpu = torch.device("cpu")
    place = comfy.model_management.get_torch_device() if device == "cuda" else cpu
    with _whole_layers():
        base = config.get_model({}, device=place).eval()
    randomise(base, 2)
    if comfy.memory_management.aimdo_enabled:
        base.to(cpu)
    patcher = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    model = patcher(base, place, cpu)
    model.cached_patcher_init = make_model, (shape, dtype, device)
    return model


def make_prompts(concepts: int, templates: int = TEMPLATES):
    """Prompt pairs: every concept in so many of the pack's sentences, all of them with one safe target."""
    prompts = pack("trce_ops.text.prompts")
    return prompts.expand(make_concepts(concepts), prompts.TEMPLATES[:templates])


def make_concepts(count: int):
    """Concept pairs."""
    ConceptPair = pack("trce_ops.text.concepts").ConceptPair
    return [ConceptPair(f"a {thing}", SAFE) for thing in THINGS[:count]]


def make_delta(shape: Shape, rank: int = 8):
    """A delta of SD1.x that moves text at random; rank 0: one dense matrix."""
    file, noise = pack("trce_ops.delta.file"), torch.Generator().manual_seed(3)
    sizes = ((shape.width, rank), (rank, shape.width)) if rank else ((shape.width, shape.width),)
    factors = tuple(torch.randn(*size, generator=noise) / shape.width**0.5 for size in sizes)
    info = file.DeltaInfo("sd1", "random", tuple(make_concepts(1)), settings={"templates": True})
    return file.ErasedDelta({"context": pack("trce_ops.delta.low_rank").ContextMap(factors)}, info)


def make_contexts(shape: Shape, count: int = 2) -> Tensor:  # (count, 1, 77, width)
    """Random embeddings of prompts."""
    return torch.randn(count, 1, 77, shape.width, generator=torch.Generator().manual_seed(5))


def load_seconds(model, device: str, clock: Callable[[], float] = time.process_time) -> float:
    """Seconds that ComfyUI takes to put the patches of MODEL into its weights."""
    fresh, place = model.clone(), torch.device(device)
    fresh.patches_uuid = uuid4()
    began = clock()
    fresh.patch_model(place)
    seconds = clock() - began
    fresh.unpatch_model(place)
    return seconds


def sample(
    model,
    shape: Shape,
    contexts: Tensor,  # (2, 1, 77, width) of the prompt and of the negative one
    pixels: int,
    steps: int,
    *,
    cfg: float = 7.5,
    clock: Callable[[], float] = time.process_time,
) -> tuple[Tensor, list[float]]:
    """KSampler's loop: the latents (1, 4, h, w), and seconds of every step but the first, which loads things."""
    import comfy.sample

    noise = torch.randn(1, 4, pixels // 8, pixels // 8, generator=torch.Generator().manual_seed(7))
    pooled = torch.ones(1, shape.pooled) if shape.pooled else None
    positive, negative = ([[context, {"pooled_output": pooled} if shape.pooled else {}]] for context in contexts)
    ticks: list[float] = []
    latents = comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        "euler",
        "normal",
        positive,
        negative,
        torch.zeros_like(noise),
        disable_pbar=True,
        seed=6,
        callback=lambda *_: ticks.append(clock()),
    )
    return latents.float().cpu(), [b - a for a, b in zip(ticks, ticks[1:])]
