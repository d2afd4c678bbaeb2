"""Trains an autoencoder on augmented pictures (bf16, one thread, some 9 minutes): the UNet's, with --flow the other."""

from __future__ import annotations

import argparse
import logging

import torch
from autoencoder import SD3, SD15, Autoencoder, Latents, start_as_thumbnail
from common import RUNS, save_grid, save_tensors
from pictures import random_batch
from torch import Tensor
from training import Run
from world import STYLES

STEPS, BATCH, LR = 4200, 16, 1.5e-3
LATENT_NOISE = 0.05  # the UNet's latents are never exact
log = logging.getLogger(__name__)


def whiteness(latents: Tensor) -> Tensor:
    """Squared distance of the channels' mean from zero and of their covariance from the identity."""
    rows = latents.transpose(0, 1).flatten(1)
    mean = rows.mean(1, keepdim=True)
    covariance = (rows - mean) @ (rows - mean).T / rows.shape[1]
    return mean.square().mean() + (covariance - torch.eye(len(rows))).square().mean()


def train(latents: Latents) -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder(latents)
    start_as_thumbnail(autoencoder)
    autoencoder = autoencoder.to(memory_format=torch.channels_last)
    run = Run(latents.file.stem, autoencoder, STEPS, LR, decay_from=int(0.4 * STEPS), weight_decay=0.0, save_every=120)
    while not run.done:
        generator = torch.Generator().manual_seed(run.step)
        pictures = random_batch(BATCH, generator)[0].to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            encoded = autoencoder.taesd_encoder(pictures).float()
            noise = torch.randn(encoded.shape, generator=generator)
            error = autoencoder.taesd_decoder(encoded + LATENT_NOISE * noise).float() - pictures
        run.update(error.square().mean() + 0.1 * error.abs().mean() + 0.01 * whiteness(encoded))
    run.use_average()
    autoencoder.normalise(random_batch(512, torch.Generator().manual_seed(10**6))[0])
    save_tensors(autoencoder.state_dict(), latents.file)
    measure(autoencoder)


@torch.no_grad()
def measure(autoencoder: Autoencoder) -> None:
    """Logs the peak signal-to-noise ratio on fresh pictures and writes a grid of pictures and reconstructions."""
    pictures, _, style, _ = random_batch(600, torch.Generator().manual_seed(10**6 + 1))
    again = autoencoder.decode(autoencoder.encode(pictures)).clamp(0, 1)
    error = (again - pictures).square().mean((1, 2, 3))
    each = ", ".join(f"{name} {-10 * error[style == i].mean().log10():.1f}" for i, name in enumerate(STYLES))
    log.info("autoencoder: PSNR %.1f dB (%s)", -10 * error.mean().log10(), each)
    save_grid(torch.stack([pictures[:60], again[:60]], 1).flatten(0, 1), RUNS / "look" / "autoencoded.png", 20, 1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flow", action="store_true", help="the flow model's, with 16 channels")
    train(SD3 if parser.parse_args().flow else SD15)
