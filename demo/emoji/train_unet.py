"""Trains the UNet on the pool (bf16 autocast, compiled, one thread).

The learning rate stays constant until --decay-from pictures and then falls to zero at --pictures; both can be chosen
anew on resuming, so that a run may go on for days and still be ended with a decay at any time. Without a state of its
own in RUNS, a run goes on from the model that ships.
"""

from __future__ import annotations

import argparse
import logging

import torch
from common import RUNS, metadata_of, save_tensors
from compact import MODEL_FILE, load_compact
from diffusion import ALPHA_BAR, TIMESTEPS, add_noise
from pool import CAPTION_POOL, LATENT_POOL, VIEWS
from safetensors.torch import load_file
from torch import Tensor
from training import Run
from unet import UNet
from world import BACKGROUNDS, STYLES

CAPTIONS, PER_CAPTION = 16, 4  # of one step: captions, and pictures for each of them
BATCH = CAPTIONS * PER_CAPTION
LR = 7e-4
EMPTY = 0.1  # share of captions that are left empty
WEIGHTS_FILE = RUNS / "unet.safetensors"


def loss_weights() -> Tensor:
    """min-SNR-5 (Hang et al. 2023) times min(1 / alpha-bar, 25), mean 1, by timestep.

    The second factor lifts the noisiest steps, where it is decided what is drawn.
    """
    snr = ALPHA_BAR / (1 - ALPHA_BAR)
    weight = snr.clamp(max=5) / snr * (1 / ALPHA_BAR).clamp(max=25)
    return weight / weight.mean()


class Batches:
    """Training batches, a function of the step alone, so that a resumed run goes on with the same ones."""

    def __init__(self) -> None:
        captions = load_file(CAPTION_POOL)
        self.embeddings, self.said = captions["embeddings"], captions["said"]
        self.latents = load_file(LATENT_POOL)["latents"]

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents and noise (BATCH, 4, 8, 8), timesteps (BATCH,), embeddings (CAPTIONS, 77, width)."""
        generator = torch.Generator().manual_seed(step)

        def random(high: int, shape: tuple[int, ...] = (PER_CAPTION, CAPTIONS)) -> Tensor:
            return torch.randint(high, shape, generator=generator)

        rows = random(len(self.said), (CAPTIONS,))
        concept, style, background = (column.expand(PER_CAPTION, CAPTIONS) for column in self.said[rows].T)
        style = torch.where(style < 0, random(len(STYLES)), style)
        background = background.clamp(min=list(BACKGROUNDS).index("white"))  # unsaid is white
        latents = self.latents[concept, style, background, random(VIEWS)].flatten(0, 1).float()
        left_empty = torch.rand(CAPTIONS, generator=generator) < EMPTY
        embeddings = self.embeddings[torch.where(left_empty, len(self.said), rows)]
        noise = torch.randn(latents.shape, generator=generator)
        return latents, noise, random(TIMESTEPS, (BATCH,)), embeddings


def train(pictures: int, decay_from: int) -> None:
    torch.manual_seed(0)
    unet = UNet().to(memory_format=torch.channels_last)
    run = Run("unet", unet, pictures // BATCH, LR, decay_from=decay_from // BATCH, warmup=200, average=0.9985)
    if run.step == 0 and MODEL_FILE.exists():
        unet.load_state_dict(load_compact().unet.state_dict())
        run.start_from(int(metadata_of(MODEL_FILE)["pictures"]) // BATCH)
    batches, weights = Batches(), loss_weights()
    # compiled it takes two thirds of the time; train.py keeps what was compiled
    forward = torch.compile(unet, dynamic=False)
    while not run.done:
        latents, noise, timesteps, embeddings = batches(run.step)
        noisy = add_noise(latents, noise, timesteps).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = forward(noisy, timesteps, embeddings)
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        run.update((weights[timesteps] * error).mean())
    run.use_average()
    save_tensors(unet.state_dict(), WEIGHTS_FILE, {"pictures": str(run.step * BATCH)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1_500_000, help="train until this many pictures were seen")
    parser.add_argument("--decay-from", type=int, help="pictures at which the decay begins (default: three quarters)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    decay_from = arguments.decay_from if arguments.decay_from is not None else arguments.pictures * 3 // 4
    train(arguments.pictures, decay_from)
