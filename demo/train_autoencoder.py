"""Trains the demo model's autoencoder: `python demo/train_autoencoder.py` (resumes; --steps N for longer)."""

from __future__ import annotations

import argparse

import torch
from autoencoder import Autoencoder, thumbnail_start
from common import RUNS, Run, save
from drawing import draw, draw_broken, random_attributes
from torch import Tensor

BATCH = 16
LATENT_NOISE = 0.05  # in latent standard deviations: the decoder must not mind what a sampler leaves over


def whiteness(latents: Tensor) -> Tensor:
    """How far the raw latents (n, 4, 8, 8) are from zero mean, unit variance and uncorrelated channels."""
    z = latents.transpose(0, 1).flatten(1)
    mean = z.mean(1)
    covariance = (z - mean[:, None]) @ (z - mean[:, None]).T / z.shape[1]
    return mean.square().mean() + (covariance - torch.eye(len(z), device=z.device)).square().mean()


def pictures(n: int, generator: torch.Generator) -> Tensor:
    """Proper drawings and, one in four, broken ones: the decoder should be honest about a bad latent."""
    attributes = random_attributes(n, generator)
    return torch.cat([draw(attributes[n // 4 :], generator), draw_broken(attributes[: n // 4], generator)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = Autoencoder()
    thumbnail_start(model)
    model = model.to(device, memory_format=torch.channels_last)
    run = Run("autoencoder", model, options.steps, options.lr, average=0.995)
    while run.step < run.steps:
        generator = torch.Generator().manual_seed(run.step)
        x = pictures(BATCH, generator).to(device, memory_format=torch.channels_last)
        z = model.taesd_encoder(x)
        noise = torch.randn(z.shape, generator=generator).to(device)
        error = model.taesd_decoder(z + LATENT_NOISE * noise) - x
        run.update(error.square().mean() + 0.1 * error.abs().mean() + 0.01 * whiteness(z))

    model.load_state_dict(run.weights())
    generator = torch.Generator().manual_seed(1 << 32)
    model.normalise(pictures(512, generator).to(device))
    x = pictures(256, generator).to(device)
    with torch.no_grad():
        psnr = -10 * torch.log10((model.decode(model.encode(x)).clamp(0, 1) - x).square().mean())
    print(f"autoencoder: {psnr:.1f} dB on 256 new drawings")
    save(model.state_dict(), RUNS / "autoencoder.safetensors")


if __name__ == "__main__":
    main()
