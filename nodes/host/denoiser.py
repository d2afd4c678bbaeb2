"""A MODEL as a function of its weights, to be differentiated: what trce_ops.stage2 trains on.

ComfyUI computes in inference mode on weights that all clones of a MODEL share. Here its network is called with other
tensors in the place of its parameters, for the length of one call (torch.func.functional_call): the module itself is
not changed, nothing is read from disk, and weights that ComfyUI holds in inference mode are used where they lie.

What is tuned is the MODEL's weights with their LoRAs and its way of predicting (eps or v). Functions that other nodes
hang into attention or blocks (FreeU, IP-Adapter, ...) are left out: many have no gradient, and they still act on the
tuned model afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from uuid import uuid4

import comfy.lora
import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Generator, Tensor

from ...trce_ops.tuning.text_batch import Texts
from ...trce_ops.tuning.trajectories import Overrides
from ...trce_ops.tuning.tune import TunableModel
from .errors import HostError
from .fingerprint import model_fingerprint
from .readers import TextReaders, find_text_readers

TUNED_FAMILIES = ("sd1", "sd2", "sdxl")
FLOATS = ("torch.float32", "torch.float16", "torch.bfloat16")
BASE = "base."  # where Network has the model
MEMORY = 12  # a graph takes about so many times what sampling the same picture does


class Network(torch.nn.Module):
    """ComfyUI's model with denoising as its forward, which functional_call needs."""

    def __init__(self, base: torch.nn.Module):
        super().__init__()
        self.base = base

    def forward(self, x: Tensor, sigma: Tensor, **conditions) -> Tensor:
        return self.base.apply_model(x, sigma, **conditions)


class HostDenoiser:
    """trce_ops.trajectories.Denoiser for a MODEL that is loaded; `weights` are those with its LoRAs."""

    def __init__(self, model, weights: dict[str, Tensor], resolution: int):
        base = model.model
        self.network = Network(base)
        self.weights = weights
        self.sampling = base.model_sampling
        self.device = model.load_device
        self.dtype = base.get_dtype_inference()
        self.base, self.resolution = base, resolution
        size = resolution // getattr(base.latent_format, "spacial_downscale_ratio", 8)
        self.shape = (base.latent_format.latent_channels, size, size)
        # Some of the faster attentions have no gradient; this one has, everywhere.
        self.options = {"optimized_attention_override": lambda _, *args, **kwargs: attention_pytorch(*args, **kwargs)}

    def schedule(self, steps: int) -> Tensor:  # (steps + 1,)
        return comfy.samplers.calculate_sigmas(self.sampling, "normal", steps).clone().cpu()

    def noise(self, n: int, generator: Generator, sigma: Tensor) -> Tensor:  # (n, c, h, w)
        noise = torch.randn(n, *self.shape, generator=generator)
        return self.sampling.noise_scaling(sigma, noise, torch.zeros_like(noise), True)

    def __call__(self, x: Tensor, sigma: Tensor, texts: Texts, overrides: Overrides) -> Tensor:
        x, sigma, texts = (part.to(self.device) for part in (x, sigma, texts))
        conditions = {"c_crossattn": texts.sequence, "transformer_options": self.options}
        if texts.pooled is not None:
            size = {"width": self.resolution, "height": self.resolution}
            conditions["y"] = self.base.encode_adm(pooled_output=texts.pooled, device=self.device, **size)
        weights = {**self.weights, **overrides}
        denoised = torch.func.functional_call(
            self.network,
            {BASE + name: W for name, W in weights.items()},
            (x, sigma),
            conditions,
        )
        return (x - denoised) / sigma.view(-1, 1, 1, 1)


def normal(tensor: Tensor) -> Tensor:
    """The same memory as a tensor that a graph may save, which those made in inference mode may not be."""
    tensor = tensor.detach()
    if not tensor.is_inference():
        return tensor
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


@torch.no_grad()
def effective_weights(model, bare, device: torch.device) -> dict[str, Tensor]:
    """All weights of MODEL with its patches, on the device; `bare` is MODEL without any, loaded."""
    weights = {}
    for name, tensor in chain(bare.model.named_parameters(), bare.model.named_buffers()):
        if name in model.patches:
            W = tensor.to(device, torch.float32, copy=True)
            weights[name] = comfy.lora.calculate_weight(model.patches[name], W, name).to(tensor.dtype)
        else:
            weights[name] = tensor.to(device)
    return {name: normal(W) for name, W in weights.items()}


@contextmanager
def open_denoiser(model, resolution: int) -> Iterator[HostDenoiser]:
    """Load MODEL without its patches, which are put on copies, and leave ComfyUI as it was, whatever happens inside."""
    bare = model.clone()
    if bare.patches:
        bare.patches, bare.patches_uuid = {}, uuid4()
    size = resolution // 8
    before = comfy.model_management.in_training
    try:
        comfy.model_management.load_models_gpu([bare], MEMORY * bare.memory_required([1, 4, size, size]))
        comfy.model_management.in_training = True
        with torch.inference_mode(False), torch.enable_grad():
            yield HostDenoiser(bare, effective_weights(model, bare, bare.load_device), resolution)
    finally:
        comfy.model_management.in_training = before


def check_differentiable(model, job: str = "tuning", remedy: str = "set 'mode' to 'closed form'") -> TextReaders:
    """What reads the text in MODEL. Raises HostError, naming the job and a remedy, for one that has no gradients."""
    readers = find_text_readers(model)
    base = model.model
    if readers.family not in TUNED_FAMILIES:
        raise HostError(
            f"The connected 'model' is a {readers.family} model, and {job} is for SD1.x, SD2.x and SDXL; {remedy}."
        )
    if base.concat_keys or base.adm_channels and readers.family != "sdxl":
        raise HostError(
            f"The connected 'model' wants more than a text (a picture to inpaint, a depth map, ...), which {job} does "
            f"not have; connect a text-to-image model, or {remedy}."
        )
    for weight in base.parameters():
        kind = type(weight.data).__name__ if type(weight.data) is not Tensor else str(weight.dtype)
        if kind not in FLOATS:
            raise HostError(
                f"The connected 'model' holds its weights as {kind}, which have no gradients for {job}; load it in "
                f"fp16, bf16 or fp32, or {remedy}."
            )
    return readers


def drawn_resolution(model) -> int:
    """The pixels a side that models of this family draw. 0 for families that cannot be tuned."""
    row = find_text_readers(model).row
    v_prediction = isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.V_PREDICTION)
    return row.v_resolution if v_prediction and row.v_resolution else row.resolution


def tunable(model, resolution: int) -> TunableModel:
    """MODEL as stage 2 wants it. Raises HostError for one that cannot be trained."""
    readers = check_differentiable(model)
    return TunableModel(model_fingerprint(model), readers.keys, partial(open_denoiser, model, resolution))
