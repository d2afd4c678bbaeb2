"""What does a step of tuning hold at real sizes? `python dev.py bench graph_memory [--model NAME ...]`

Counted and not measured, which `python dev.py bench gpu --parts graphs` does on a GPU: the network is ComfyUI's own
class at its real size, on tensors that have shapes and no numbers (torch's FakeTensorMode), and every storage that is
alive is added up. So a model of twelve billion parameters takes no memory here and some minutes. Printed are the
weights, and the most that a step of mode tuned holds beside them at 1024 pixels: one picture's graph, the trained
factors with AdamW's state, and the trained weights as they are computed with.

Attention counts as torch's on a CPU, which keeps no matrix of all pairs, as on a GPU. What the allocator of a device
adds, and text encoders, which are unloaded by then, are not in it. "Blocks kept" is what it would take without
computing them again in the backward pass.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import random_models
import torch
from random_models import pack
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GB = 1e9
Z_IMAGE = dict(patch_size=2, in_channels=16, dim=3840, n_layers=30, n_refiner_layers=2, n_heads=30, n_kv_heads=30)
Z_IMAGE |= dict(multiple_of=256, ffn_dim_multiplier=8 / 3, qk_norm=True, cap_feat_dim=2560, axes_dims=[32, 48, 48])
Z_IMAGE |= dict(axes_lens=[1536, 512, 512], rope_theta=256.0, z_image_modulation=True, time_scale=1000.0)
Z_IMAGE |= dict(pad_tokens_multiple=32)
FLUX = dict(in_channels=16, out_channels=16, vec_in_dim=768, context_in_dim=4096, hidden_size=3072, mlp_ratio=4.0)
FLUX |= dict(num_heads=24, depth=19, depth_single_blocks=38, axes_dim=[16, 56, 56], theta=10000, patch_size=2)
FLUX |= dict(qkv_bias=True, guidance_embed=True, txt_ids_dims=[])


@dataclass(frozen=True)
class Model:
    config: str  # of comfy.supported_models
    options: dict
    weights: torch.dtype
    tokens: int  # of a prompt
    pooled: int = 0


MODELS = {
    "sdxl fp16": Model("SDXL", random_models.SHAPES["sdxl"].unet, torch.float16, 77, 1280),
    "z-image bf16": Model("ZImage", Z_IMAGE, torch.bfloat16, 128),
    "z-image fp8": Model("ZImage", Z_IMAGE, torch.float8_e4m3fn, 128),
    "flux bf16": Model("Flux", FLUX, torch.bfloat16, 256, 768),
    "flux fp8": Model("Flux", FLUX, torch.float8_e4m3fn, 256, 768),
}


@dataclass
class Held(TorchDispatchMode):
    """with Held() as held: ...; then held.most is the bytes of all storages made within that were alive at once."""

    own: Iterable[Tensor] = ()  # of the model, which are not counted
    most: int = 0
    now: int = 0
    sizes: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self.sizes = dict.fromkeys((W.untyped_storage()._cdata for W in self.own), 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.now += self.sizes[key]
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)


def make(model: Model, device: str = "cpu"):
    """ComfyUI's MODEL, with no numbers in its weights."""
    import comfy.model_patcher
    import comfy.ops
    import comfy.supported_models

    config = getattr(comfy.supported_models, model.config)(dict(model.options))
    computed = torch.bfloat16 if model.weights.itemsize == 1 else None
    config.set_inference_dtype(model.weights, computed)
    config.custom_operations = comfy.ops.manual_cast
    place, cpu = torch.device(device), torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(config.get_model({}, device=place).eval(), place, cpu)


def count(model: Model, again: bool, resolution: int) -> tuple[float, float]:
    """Bytes of the weights, and the most that two steps of mode tuned hold beside them."""
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        loaded = make(model)
        stack.enter_context(mock.patch.object(Tensor, "item", lambda _: 1.0))  # there are no numbers to look at
        held = stack.enter_context(Held([*loaded.model.parameters(), *loaded.model.buffers()]))
        two_steps(loaded, model, again, resolution)
        return size(loaded), held.most


def size(loaded) -> int:
    """Bytes of the weights."""
    return sum(W.nbytes for W in loaded.model.parameters())


def two_steps(loaded, model: Model, again: bool, resolution: int) -> None:
    """Of mode tuned, on one picture at a time. again: blocks are computed again in the backward pass."""
    host, tuning = pack("nodes.host.denoiser"), pack("trce_ops.tuning.train")
    settings, objective = pack("trce_ops.tuning.settings").QUICK, pack("trce_ops.tuning.objective")
    readers, factors = pack("nodes.host.readers").find_text_readers(loaded), pack("trce_ops.tuning.factors")
    width, mode = readers.streams["context"].width, pack("nodes.host.training_mode")
    with ExitStack() as stack:
        stack.enter_context(mode.training())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(mode.open_for_training(loaded.model.diffusion_model, readers.row, again))
        weights = pack("nodes.host.training_weights").Weights(loaded, loaded)
        denoise = host.HostDenoiser(loaded, weights, resolution, resolution, width)
        names = factors.choose(denoise.weights, settings.projections, readers.row.trained)
        start, noise = {name: denoise.weights[name] for name in names}, torch.Generator()
        parts = factors.FUSED_PARTS.get(settings.projections, slice(None))
        trained = factors.Trained(start, settings.rank, noise, parts=parts)
        optimizer = torch.optim.AdamW(trained.parameters, lr=settings.learning_rate, foreach=False)
        x, pooled = torch.randn(1, *denoise.shape), torch.randn(1, model.pooled) if model.pooled else None
        texts = pack("trce_ops.tuning.text_batch").Texts(torch.randn(1, model.tokens, width), pooled)
        drift = pack("trce_ops.tuning.losses").drift
        term = objective.Term(x, torch.ones(1), texts, (torch.zeros_like(x),), drift, 1.0)
        predict = pack("trce_ops.tuning.trajectories").Predictor(denoise, 1)
        for _ in range(2):
            optimizer.zero_grad()
            tuning.backward(predict, [term], trained, 1.0)
            optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--resolution", type=int, default=1024)
    options = parser.parse_args()
    random_models.load()
    print("| model | weights | beside them, blocks kept | beside them | in all |\n|---|---|---|---|---|", flush=True)
    for name in options.model:
        weights, kept = count(MODELS[name], False, options.resolution)
        _, again = count(MODELS[name], True, options.resolution)
        row = (weights, kept, again, weights + again)
        print(f"| {name} | {' | '.join(f'{bytes_ / GB:.1f} GB' for bytes_ in row)} |", flush=True)


if __name__ == "__main__":
    main()
