"""A MODEL as a differentiable function of its weights, for trce_ops.tuning and trce_ops.attacks.

ComfyUI computes in inference mode, on weights that all clones of a MODEL share. Here the network is called with
replacement tensors for the length of one call (torch.func.functional_call): the module does not change, nothing is read
from disk, and weights made in inference mode are not copied.

The weights are those of MODEL with its LoRAs. Hooks of other nodes in attention or blocks (FreeU, IP-Adapter) are left
out, because many have no gradient; they act on the tuned model afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import torch
from comfy.quant_ops import QuantizedTensor
from torch import Generator, Tensor
from torch.nn.functional import pad

from ...trce_ops.tuning.factors import TRAINED
from ...trce_ops.tuning.text_batch import Texts
from ...trce_ops.tuning.trajectories import Overrides
from ...trce_ops.tuning.tune import TunableModel
from .attention import Watch, with_gradient
from .dynamic_vram import check_file, without_dynamic_vram
from .errors import HostError
from .families import tuned_in_words
from .fingerprint import model_fingerprint
from .readers import CONTEXT, TextReaders, find_text_readers
from .training_mode import OutOfPlace, open_for_training, training
from .training_weights import FLOATS, Weights, copied, load_bare
from .weights import is_packed

BASE = "base."  # where Network has the model
GRAPH = 64 * 64  # latent pixels in one training graph on a CPU: one picture of 512 x 512, to bound memory
MOST = 8  # pictures in one training graph on another device
MEMORY = 12  # memory of a training graph, as a multiple of what sampling the same picture takes
LARGE = 2e9  # parameters of a model whose graph is kept small whatever the picture
TUNING, REMEDY = "tuning", "set 'mode' to 'closed form'"  # of TRCE Erase
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)


class Network(torch.nn.Module):
    """ComfyUI's model with denoising as its `forward`, because functional_call calls that."""

    base: Any  # ComfyUI's BaseModel

    def __init__(self, base: torch.nn.Module):
        super().__init__()
        self.base = base

    def forward(self, x: Tensor, sigma: Tensor, watch: Watch | None, **texts) -> Tensor:
        """texts: what a sampler gives to the model beside x and sigma; the model makes its inputs of them."""
        given = self.base.extra_conds(noise=x, device=x.device, **texts)
        conditions = {name: cond.process_cond(batch_size=len(x), device=x.device).cond for name, cond in given.items()}
        if watch:
            watch.fit(conditions["c_crossattn"].shape[1])
        options = {"optimized_attention_override": watch or with_gradient}
        return self.base.apply_model(x, sigma, transformer_options=options, **conditions)


class HostDenoiser:
    """trce_ops.tuning.trajectories.Denoiser for a loaded MODEL. weights: with LoRAs; width, height: in pixels."""

    def __init__(self, model, weights: Weights, width: int, height: int, text_width: int, at_once: int = 1):
        base = model.model
        self.network = Network(base)
        self.weights = weights
        self.sampling = base.model_sampling
        self.device = model.load_device
        self.dtype = base.get_dtype_inference()
        self.size = {"width": width, "height": height}
        self.shape = tuple(latent_shape(model, width, height)[1:])
        self.text_width = text_width
        self.at_once = at_once

    def close(self) -> None:
        """Release the model and the weights. The denoiser cannot be called any more."""
        del self.network, self.weights

    def schedule(self, steps: int) -> Tensor:  # (steps + 1,)
        return comfy.samplers.calculate_sigmas(self.sampling, "normal", steps).clone().cpu()

    def noise(self, n: int, generator: Generator, sigma: Tensor) -> Tensor:  # (n, c, ..., h, w)
        noise = torch.randn(n, *self.shape, generator=generator)
        return self.sampling.noise_scaling(sigma, noise, torch.zeros_like(noise), True)

    def __call__(self, x: Tensor, sigma: Tensor, texts: Texts, overrides: Overrides) -> Tensor:
        (e,) = self._predictions(x, sigma, replace(texts, marks=None), overrides)
        return e

    def attending(self, x: Tensor, sigma: Tensor, texts: Texts, overrides: Overrides) -> tuple[Tensor, Tensor]:
        """For families that have the set "added"."""
        e, attention = self._predictions(x, sigma, texts, overrides)
        return e, attention

    def _predictions(self, x: Tensor, sigma: Tensor, texts: Texts, overrides: Overrides) -> tuple[Tensor, ...]:
        """e and, if the texts have marks, the attention to these."""
        x, sigma, texts = x.to(self.device), sigma.to(self.device), texts.to(self.device)
        weights = {BASE + name: W for name, W in {**self.weights.tensors, **overrides}.items()}
        if texts.lengths is None:
            return self._predict(x, sigma, texts, weights)
        # Prompts of one length at a time: what stands behind a prompt would be read as text
        groups = [(rows, *self._predict(x[rows], sigma[rows], same, weights)) for rows, same in texts.by_length()]
        rows, *found = map(torch.cat, zip(*groups))
        return tuple(part[rows.argsort()] for part in found)

    def _predict(self, x: Tensor, sigma: Tensor, texts: Texts, weights: dict[str, Tensor]) -> tuple[Tensor, ...]:
        watch = None if texts.marks is None else Watch(texts.marks.to(self.device))
        sequence = pad(texts.sequence, (0, self.text_width - texts.sequence.shape[-1]))  # SD3 has CLIP's rows so
        given = {"cross_attn": sequence, "pooled_output": texts.pooled, "watch": watch, **self.size}
        with OutOfPlace():
            denoised = torch.func.functional_call(self.network, weights, (x, sigma), given)
        e = (x - denoised) / sigma.view(-1, *[1] * (x.ndim - 1))
        return (e, watch.end()) if watch else (e,)


def pixels_per_latent(model) -> int:
    """Along a side."""
    return getattr(model.model.latent_format, "spacial_downscale_ratio", 8)


def latent_shape(model, width: int, height: int) -> list[int]:
    """Of one picture of a size in pixels; a model of videos gets one frame."""
    layout, ratio = model.model.latent_format, pixels_per_latent(model)
    frames = [1] * (layout.latent_dimensions - 2)
    return [1, layout.latent_channels, *frames, height // ratio, width // ratio]


def pictures_at_once(device: torch.device, pixels: int, graph: float) -> int:
    """Pictures, of so many latent pixels each, that are put into one training graph. graph: bytes of one picture's.

    A GPU has little to do with one at a time, so as many as fit into half of its free memory; the other half is for
    what else is loaded while a model is trained.
    """
    least = max(1, GRAPH // pixels)
    if device.type == "cpu":
        return least
    return max(least, min(MOST, int(comfy.model_management.get_free_memory(device) / 2 / graph)))


@contextmanager
def open_denoiser(model, width: int, height: int | None = None) -> Iterator[HostDenoiser]:
    """Load MODEL for pictures of this size in pixels, square if only the width is given.

    Patches are applied to copies of the weights. At the end, also after an error, ComfyUI's state is restored and the
    weights are released, so that ComfyUI can unload them even if the caller still holds the denoiser.
    """
    with without_dynamic_vram(model) as model, training():
        height, base, readers = height or width, model.model, find_text_readers(model)
        text_width = readers.streams[CONTEXT].width
        shape = latent_shape(model, width, height)
        denoiser = None
        try:
            graph = MEMORY * model.memory_required(shape)
            bare = load_bare(model, graph + copied(model))
            with torch.inference_mode(False), torch.enable_grad():
                weights = Weights(model, bare)
                at_once = pictures_at_once(bare.load_device, math.prod(shape[2:]), graph)
                denoiser = HostDenoiser(bare, weights, width, height, text_width, at_once)
                large = math.prod(shape[2:]) > GRAPH or sum(W.numel() for W in base.parameters()) > LARGE
                with open_for_training(base.diffusion_model, readers.row, large):
                    yield denoiser
        finally:
            if denoiser:
                denoiser.close()


def check_differentiable(model, job: str = TUNING, remedy: str = REMEDY, name: str = "model") -> TextReaders:
    """The weights that read the text of MODEL. Raises HostError with the job and a remedy if it has no gradients.

    name: of the input.
    """
    readers = find_text_readers(model)
    base = model.model
    row, is_unet = readers.row, readers.row.trained is TRAINED
    if not row.trained or job != TUNING and not is_unet:
        families = tuned_in_words() if job == TUNING else "SD1.x, SD2.x and SDXL"
        because = f", which {row.untuned}" if row.untuned else ""
        raise HostError(
            f"The connected '{name}' is a {readers.family} model{because}, and {job} is for {families}; {remedy}."
        )
    another = not is_unet and type(base.model_config).__name__ not in row.configs  # a variant that reads more
    if base.concat_keys or another or base.adm_channels and is_unet and readers.family != "sdxl":
        raise HostError(
            f"The connected '{name}' needs a picture besides the text (to inpaint, a depth map, ...), which {job} does "
            f"not support; connect a text-to-image model, or {remedy}."
        )
    check_file(model, name, remedy)
    for key, weight in base.named_parameters():
        data = weight.data
        if not (is_packed(weight) or isinstance(data, QuantizedTensor) or data.dtype in (*FLOATS, *EIGHT_BITS)):
            raise HostError(
                f"The connected '{name}' holds {key} as {data.dtype}, which has no gradients for {job}; load it in "
                f"fp16, bf16, fp32, fp8 or as GGUF, or {remedy}."
            )
    return readers


def drawn_resolution(model) -> int:
    """The side of the pictures that this family draws, in pixels; 0 for families that cannot be tuned."""
    row = find_text_readers(model).row
    v_prediction = isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.V_PREDICTION)
    return row.v_resolution if v_prediction and row.v_resolution else row.resolution


def tunable(model, resolution: int, open_encoder: Callable | None = None, remedy: str = REMEDY) -> TunableModel:
    """MODEL in the form that trce_ops.tuning trains. Raises HostError with the remedy when it cannot be trained."""
    readers = check_differentiable(model, remedy=remedy)
    row, opened = readers.row, partial(open_denoiser, model, resolution)
    sampled = {"guidance": row.cfg} if row.cfg else {}
    sampled |= {"sampling_steps": row.steps} if row.steps else {}
    return TunableModel(model_fingerprint(model), readers.keys, opened, open_encoder, row.trained, sampled)
