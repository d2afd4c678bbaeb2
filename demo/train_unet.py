"""Trains the demo model's UNet: `python demo/train_unet.py` (resumes; some 80 minutes of one core).

Needs the text encoder and the autoencoder. Their outputs are computed once, into a pool of captions with a few
pictures each, so that a training step costs the UNet alone.
"""

from __future__ import annotations

import argparse
import time

import torch
from autoencoder import Autoencoder
from captions import training_captions
from common import RUNS, Run, load_weights, save
from drawing import Attributes, draw
from safetensors.torch import load_file
from sampling import ALPHA_BAR, STEPS, add_noise
from text_encoder import encode, text_encoder, tokenize
from torch import Tensor
from unet import UNet, initialise

CAPTIONS = 9000
PICTURES = 5  # of each caption
BATCH = 32  # captions in a step
REPEAT = 2  # pictures of each in a step: they share their keys and values
EMPTY = 0.1  # chance of training a caption's pictures without it, for classifier-free guidance
MIN_SNR = 5.0


def pool(device: str) -> dict[str, Tensor]:
    """Embeddings (captions + 1, 77, 768), the last being the empty prompt's, and latents (captions, pictures, ...)."""
    path = RUNS / "pool.safetensors"
    if path.exists():
        return load_file(path)
    start = time.monotonic()
    generator = torch.Generator().manual_seed(1)
    captions = training_captions(CAPTIONS, generator)
    encoder = text_encoder().eval()
    encoder.load_state_dict(load_weights("text_encoder"))
    encoder.to(device)
    context = torch.cat(
        [encode(encoder, ids.to(device)).bfloat16().cpu() for ids in tokenize([*captions.text, ""]).split(256)]
    )
    print(f"pool: {CAPTIONS} captions encoded, {time.monotonic() - start:.0f} s", flush=True)
    autoencoder = Autoencoder().to(device, memory_format=torch.channels_last)
    autoencoder.load_state_dict(load_weights("autoencoder"))
    latents = []
    with torch.no_grad():
        for _ in range(PICTURES):
            shown = captions.shown(generator)
            for rows in torch.arange(CAPTIONS).split(256):
                part: Attributes = shown[rows]
                x = draw(part, generator).to(device, memory_format=torch.channels_last)
                latents.append(autoencoder.encode(x).contiguous().cpu())
    latents = torch.cat(latents).unflatten(0, (PICTURES, CAPTIONS)).transpose(0, 1)
    print(f"pool: {latents.shape[0] * latents.shape[1]} pictures encoded, {time.monotonic() - start:.0f} s", flush=True)
    save({"context": context, "latents": latents}, path)
    return {"context": context, "latents": latents}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    data = pool(device)
    model = UNet()
    initialise(model)
    run = Run("unet", model.to(device).train(), options.steps, options.lr, average=0.999, warmup=100)
    snr = ALPHA_BAR / (1 - ALPHA_BAR)
    weight = snr.clamp(max=MIN_SNR) / snr  # min-SNR weighting (arXiv 2303.09556), for noise prediction
    while run.step < run.steps:
        g = torch.Generator().manual_seed(run.step)
        rows = torch.randint(CAPTIONS, (BATCH,), generator=g)
        picture = torch.randint(PICTURES, (REPEAT, BATCH), generator=g)
        x = data["latents"][rows.expand(REPEAT, BATCH), picture].flatten(0, 1).float()
        rows = torch.where(torch.rand(BATCH, generator=g) < EMPTY, CAPTIONS, rows)
        context = data["context"][rows].float()
        t = torch.randint(STEPS, (REPEAT * BATCH,), generator=g)
        noise = torch.randn(x.shape, generator=g)
        predicted = model(add_noise(x, noise, t).to(device), t.to(device), context.to(device))
        error = (predicted - noise.to(device)).square().mean((1, 2, 3))
        run.update((weight[t].to(device) * error).mean())
        if run.step % 500 == 0:
            save(run.weights(), RUNS / "unet.safetensors")
    save(run.weights(), RUNS / "unet.safetensors")


if __name__ == "__main__":
    main()
