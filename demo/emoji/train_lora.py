"""Trains the example LoRA around the shipped UNet: `python demo/emoji/train_lora.py` (some 3 minutes of one core).

It makes line art of everything, whatever style the prompt names. Needs the pool (`pool.py`). Writes
demo/examples/loras/example_line_art.safetensors in the full layout, with the names that Load LoRA reads.
"""

from __future__ import annotations

import argparse
import logging
import random

import torch
from captions import TEMPLATES, UNSAID, dress
from checkpoint import unet_spans, widen
from common import HERE, save_tensors
from compact import load_compact
from diffusion import TIMESTEPS, add_noise
from pool import LATENT_POOL, VIEWS
from safetensors.torch import load_file
from text_encoder import encode
from torch import Tensor, nn
from train_unet import loss_weights
from training import Run
from unet import UNet
from world import BACKGROUNDS, STYLES, article, concept_names

LORA_FILE = HERE.parent / "examples" / "loras" / "example_line_art.safetensors"
PROJECTIONS = tuple(f"attn1.to_{name}" for name in ("v", "out.0")) + tuple(
    f"attn2.to_{name}" for name in ("q", "k", "v", "out.0")
)
RANK, CAPTIONS, BATCH = 4, 8, 32  # CAPTIONS: of each concept


class Adapted(nn.Module):
    """A linear layer that stays as it is, and the two thin ones that are added to it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Linear(linear.in_features, RANK, bias=False)
        self.up = nn.Linear(RANK, linear.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.up(self.down(x))


def adapt(unet: UNet) -> dict[str, Adapted]:
    """Puts an Adapted around each of PROJECTIONS; returns them by name."""
    found = {}
    for name, linear in list(unet.named_modules()):
        if name.endswith(PROJECTIONS):
            parent, _, child = name.rpartition(".")
            found[name] = Adapted(linear)
            setattr(unet.get_submodule(parent), child, found[name])
    return found


def full_size(adapted: dict[str, Adapted]) -> dict[str, Tensor]:
    tensors = {}
    for name, layer in adapted.items():
        outputs, inputs = unet_spans(f"{name}.weight")
        key = "lora_unet_" + name.replace(".", "_")
        tensors[f"{key}.lora_down.weight"] = widen(layer.down.weight.detach(), None, inputs).half()
        tensors[f"{key}.lora_up.weight"] = widen(layer.up.weight.detach(), outputs, None).half()
        tensors[f"{key}.alpha"] = torch.tensor(float(RANK))
    return tensors


def train(steps: int, lr: float) -> None:
    torch.manual_seed(0)
    rng = random.Random(6)
    model, weights = load_compact(), loss_weights()
    latents = load_file(LATENT_POOL)["latents"][:, STYLES.index("line art")].float()  # by concept, background, view
    texts, shown = [], []
    for concept, name in list(enumerate(concept_names())) * CAPTIONS:
        style, background = rng.choice((UNSAID, *range(len(STYLES)))), rng.randrange(len(BACKGROUNDS))
        texts.append(dress(rng.choice(TEMPLATES).format(article(name)), style, background, rng))
        shown.append((concept, background))
    embeddings, shown = encode(model.text_encoder, texts), torch.tensor(shown)
    adapted = adapt(model.unet)
    run = Run("lora", nn.ModuleList(adapted.values()), steps, lr, decay_from=steps // 2, average=0.99)
    while not run.done:
        generator = torch.Generator().manual_seed(run.step)
        rows = torch.randint(len(texts), (BATCH,), generator=generator)
        clean = latents[(*shown[rows].T, torch.randint(VIEWS, (BATCH,), generator=generator))]
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(TIMESTEPS, (BATCH,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = model.unet(add_noise(clean, noise, timesteps), timesteps, embeddings[rows])
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        run.update((weights[timesteps] * error).mean())
    run.use_average()
    save_tensors(full_size(adapted), LORA_FILE)
    run.path.unlink()  # the next run begins anew, around another UNet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--lr", type=float, default=2e-3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    train(options.steps, options.lr)
