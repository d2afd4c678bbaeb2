"""A MODEL as a differentiable function of its weights, for trce_ops.tuning and trce_ops.attacks.

ComfyUI computes in inference mode, on weights that all clones of a MODEL share. Here the network is called with
replacement tensors for the length of one call (torch.func.functional_call): the module does not change, nothing is read
from disk, and weights made in inference mode are not copied.

The weights are those of MODEL with its LoRAs. Hooks of other nodes in attention or blocks (FreeU, IP-Adapter) are left
out, because many have no gradient; they act on the tuned model afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any
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
MEMORY = 12  # memory of a training graph, as a multiple of what sampling the same picture takes


class Network(torch.nn.Module):
    """ComfyUI's model with denoising as its `forward`, because functional_call calls that."""

    base: Any  # ComfyUI's BaseModel

    def __init__(self, base: torch.nn.Module):
        super().__init__()
        self.base = base

    def forward(self, x: Tensor, sigma: Tensor, **conditions) -> Tensor:
        return self.base.apply_model(x, sigma, **conditions)


class HostDenoiser:
    """trce_ops.tuning.trajectories.Denoiser for a loaded MODEL. weights: with LoRAs; width, height: in pixels."""

    def __init__(self, model, weights: dict[str, Tensor], width: int, height: int):
        base = model.model
        self.network = Network(base)
        self.weights: Mapping[str, Tensor] = weights
        self.sampling = base.model_sampling
        self.device = model.load_device
        self.dtype = base.get_dtype_inference()
        self.base, self.width, self.height = base, width, height
        ratio = downscale(model)
        self.shape = (base.latent_format.latent_channels, height // ratio, width // ratio)
        # Some faster attention functions have no gradient; this one always has.
        self.options = {"optimized_attention_override": lambda _, *args, **kwargs: attention_pytorch(*args, **kwargs)}

    def close(self) -> None:
        """Release the weights. The denoiser cannot be called any more."""
        del self.weights

    def schedule(self, steps: int) -> Tensor:  # (steps + 1,)
        return comfy.samplers.calculate_sigmas(self.sampling, "normal", steps).clone().cpu()

    def noise(self, n: int, generator: Generator, sigma: Tensor) -> Tensor:  # (n, c, h, w)
        noise = torch.randn(n, *self.shape, generator=generator)
        return self.sampling.noise_scaling(sigma, noise, torch.zeros_like(noise), True)

    def __call__(self, x: Tensor, sigma: Tensor, texts: Texts, overrides: Overrides) -> Tensor:
        x, sigma, texts = x.to(self.device), sigma.to(self.device), texts.to(self.device)
        conditions = {"c_crossattn": texts.sequence, "transformer_options": self.options}
        if texts.pooled is not None:
            size = {"width": self.width, "height": self.height}
            conditions["y"] = self.base.encode_adm(pooled_output=texts.pooled, device=self.device, **size)
        weights = {BASE + name: W for name, W in {**self.weights, **overrides}.items()}
        denoised = torch.func.functional_call(self.network, weights, (x, sigma), conditions)
        return (x - denoised) / sigma.view(-1, 1, 1, 1)


def downscale(model) -> int:
    """Pixels per latent pixel, along a side."""
    return getattr(model.model.latent_format, "spacial_downscale_ratio", 8)


def normal(tensor: Tensor) -> Tensor:
    """A view of the tensor that autograd may save. Tensors made in inference mode may not be saved."""
    tensor = tensor.detach()
    if not tensor.is_inference():
        return tensor
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


@torch.no_grad()
def effective_weights(model, bare, device: torch.device) -> dict[str, Tensor]:
    """All weights of MODEL with its patches, on the device. bare: the loaded MODEL without patches."""
    weights = {}
    for name, tensor in chain(bare.model.named_parameters(), bare.model.named_buffers()):
        if name in model.patches:
            W = tensor.to(device, torch.float32, copy=True)
            weights[name] = comfy.lora.calculate_weight(model.patches[name], W, name).to(tensor.dtype)
        else:
            weights[name] = tensor.to(device)
    return {name: normal(W) for name, W in weights.items()}


@contextmanager
def open_denoiser(model, width: int, height: int | None = None) -> Iterator[HostDenoiser]:
    """Load MODEL for pictures of this size in pixels, square if only the width is given.

    Patches are applied to copies of the weights. At the end, also after an error, ComfyUI's state is restored and the
    weights are released, so that ComfyUI can unload them even if the caller still holds the denoiser.
    """
    height = height or width
    bare = model.clone()
    if bare.patches:
        bare.patches, bare.patches_uuid = {}, uuid4()
    shape = [1, model.model.latent_format.latent_channels, height // downscale(model), width // downscale(model)]
    before = comfy.model_management.in_training
    denoiser = None
    try:
        comfy.model_management.load_models_gpu([bare], MEMORY * bare.memory_required(shape))
        comfy.model_management.in_training = True
        with torch.inference_mode(False), torch.enable_grad():
            denoiser = HostDenoiser(bare, effective_weights(model, bare, bare.load_device), width, height)
            yield denoiser
    finally:
        comfy.model_management.in_training = before
        if denoiser:
            denoiser.close()


def check_differentiable(model, job: str = "tuning", remedy: str = "set 'mode' to 'closed form'") -> TextReaders:
    """The weights that read the text of MODEL. Raises HostError with the job and a remedy if it has no gradients."""
    readers = find_text_readers(model)
    base = model.model
    if readers.family not in TUNED_FAMILIES:
        raise HostError(
            f"The connected 'model' is a {readers.family} model, and {job} is for SD1.x, SD2.x and SDXL; {remedy}."
        )
    if base.concat_keys or base.adm_channels and readers.family != "sdxl":
        raise HostError(
            f"The connected 'model' needs a picture besides the text (to inpaint, a depth map, ...), which {job} does "
            f"not support; connect a text-to-image model, or {remedy}."
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
    """The side of the pictures that this family draws, in pixels; 0 for families that cannot be tuned."""
    row = find_text_readers(model).row
    v_prediction = isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.V_PREDICTION)
    return row.v_resolution if v_prediction and row.v_resolution else row.resolution


def tunable(model, resolution: int, open_encoder: Callable | None = None) -> TunableModel:
    """MODEL in the form that trce_ops.tuning trains. Raises HostError when it cannot be trained."""
    readers = check_differentiable(model)
    opened = partial(open_denoiser, model, resolution)
    return TunableModel(model_fingerprint(model), readers.keys, opened, open_encoder)
