"""Trains the ControlNet around the shipped UNet: `python demo/emoji/train_controlnet.py` (some 5 minutes of one core).

Needs the drawings (`pictures.py`). Writes weights/controlnet.safetensors, float16, and the outline that the workflow
template shows. To be run again for every new UNet.
"""

from __future__ import annotations

import argparse
import logging
import random

import torch
import torch.nn.functional as F
from captions import TEMPLATES, dress
from common import HERE, save_grid, save_tensors
from compact import Model, load_compact
from controlnet import CONTROLNET_FILE, ControlNet
from diffusion import TIMESTEPS, add_noise
from pictures import drawings, render
from text_encoder import encode
from torch import Tensor
from train_unet import loss_weights
from training import Run
from world import BACKGROUNDS, STYLES, article, concept_names

VIEWS = 4  # of each drawing, each on a background of its own
BATCH = 32
EMPTY = 0.5  # share of captions that are left empty, so that the outline has to say what is drawn
EXAMPLE = HERE.parent / "examples" / "input" / "example_outline.png", "key", "noto"


def with_outline(rgba: Tensor, background: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, 64, 64) as `render` makes them, and the edges of what is drawn (n, 1, 64, 64), white on black."""
    pictures = render(rgba, background, torch.Generator().manual_seed(seed))
    shadow = torch.cat([torch.zeros_like(rgba[:, :3]), rgba[:, 3:]], 1)
    white = torch.zeros_like(background) + list(BACKGROUNDS).index("white")
    cover = 1 - render(shadow, white, torch.Generator().manual_seed(seed))[:, :1]
    return pictures, F.max_pool2d(cover, 3, 1, 1) + F.max_pool2d(-cover, 3, 1, 1)


def pool(model: Model) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (n, 4, 8, 8), outlines (n, 1, 64, 64), embeddings (n + 1, 77, width), the empty prompt's last."""
    rng = random.Random(5)
    rows = [(concept, style) for concept in range(len(concept_names())) for style in range(len(STYLES))] * VIEWS
    concept, style = torch.tensor(rows).T
    background = torch.tensor([rng.randrange(len(BACKGROUNDS)) for _ in rows])
    texts = [
        dress(rng.choice(TEMPLATES).format(article(concept_names()[concept])), style, background, rng)
        for (concept, style), background in zip(rows, background.tolist(), strict=True)
    ]
    pictures, outlines = with_outline(drawings()[concept, style], background, seed=5)
    with torch.no_grad():
        latents = torch.cat([model.autoencoder.encode(part) for part in pictures.split(64)])
    return latents, outlines, encode(model.text_encoder, [*texts, ""])


def train(steps: int, lr: float) -> None:
    torch.manual_seed(0)
    model = load_compact()
    latents, outlines, embeddings = pool(model)
    unet, weights = model.unet, loss_weights()
    controlnet = ControlNet(unet).to(memory_format=torch.channels_last)
    run = Run("controlnet", controlnet, steps, lr, decay_from=steps // 2, average=0.99)
    while not run.done:
        generator = torch.Generator().manual_seed(run.step)
        rows = torch.randint(len(latents), (BATCH,), generator=generator)
        empty = torch.rand(BATCH, generator=generator) < EMPTY
        noise = torch.randn(latents[rows].shape, generator=generator)
        timesteps = torch.randint(TIMESTEPS, (BATCH,), generator=generator)
        context = embeddings[torch.where(empty, len(latents), rows)]
        hint = outlines[rows].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        noisy = add_noise(latents[rows], noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = unet(noisy, timesteps, context, controlnet(noisy, hint, timesteps, context))
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        run.update((weights[timesteps] * error).mean())
    run.use_average()
    save_tensors({name: value.half() for name, value in controlnet.own().items()}, CONTROLNET_FILE)
    run.path.unlink()  # the next run begins anew, around another UNet


def draw_example() -> None:
    path, concept, style = EXAMPLE
    rgba = drawings()[concept_names().index(concept), STYLES.index(style)]
    _, outline = with_outline(rgba[None], torch.zeros(1, dtype=torch.long), seed=0)
    save_grid(outline.expand(-1, 3, -1, -1), path, 1, zoom=4)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    draw_example()
    train(options.steps, options.lr)
