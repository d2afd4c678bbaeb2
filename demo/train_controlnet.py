"""Trains the demo model's ControlNet: `python demo/train_controlnet.py` (resumes; some 5 minutes of one core).

Needs nothing but the shipped weights. What comes out is demo/weights/controlnet.safetensors, in float16.
"""

from __future__ import annotations

import argparse

import torch
from autoencoder import Autoencoder
from build_checkpoint import COMPACT, part
from captions import training_captions
from common import WEIGHTS, Run, save
from controlnet import ControlNet, controlled
from drawing import draw_with_outline
from safetensors.torch import load_file
from sampling import ALPHA_BAR, STEPS, add_noise
from text_encoder import encode, text_encoder, tokenize
from unet import UNet

CAPTIONS = 500
PICTURES = 6  # of each caption
BATCH = 16  # captions in a step
REPEAT = 2  # pictures of each in a step
EMPTY = 0.5  # chance of training without the text, so that the outline has to say what the shape is
MIN_SNR = 5.0


@torch.no_grad()
def pool(weights: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeddings (captions + 1, 77, 768), the empty prompt's last; latents and outlines (captions, pictures, ...)."""
    generator = torch.Generator().manual_seed(7)
    captions = training_captions(CAPTIONS, generator)
    encoder = text_encoder().eval()
    names = encoder.state_dict()
    text = {k.removeprefix("text_model."): v.float() for k, v in part(weights, "text_encoder.text_model.").items()}
    table = torch.zeros_like(next(v for k, v in names.items() if k.endswith("token_embedding.weight")))
    table[weights["text_encoder.token_ids"]] = text["embeddings.token_embedding.weight"]
    text["embeddings.token_embedding.weight"] = table
    encoder.load_state_dict({k: text.get(k.removeprefix("text_model."), v) for k, v in names.items()})
    context = torch.cat([encode(encoder, ids) for ids in tokenize([*captions.text, ""]).split(128)])
    autoencoder = Autoencoder()
    autoencoder.load_state_dict({k: v.float() for k, v in part(weights, "autoencoder.").items()})
    latents, outlines = [], []
    for _ in range(PICTURES):
        shown = captions.shown(generator)
        for rows in torch.arange(CAPTIONS).split(250):
            picture, outline = draw_with_outline(shown[rows], generator)
            latents.append(autoencoder.encode(picture))
            outlines.append(outline[:, :1].half())
    latents, outlines = (torch.cat(x).unflatten(0, (PICTURES, CAPTIONS)).transpose(0, 1) for x in (latents, outlines))
    return context, latents, outlines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parser.parse_args()

    torch.manual_seed(0)
    weights = load_file(COMPACT)
    context, latents, outlines = pool(weights)
    unet = UNet()
    unet.load_state_dict({k: v.float() for k, v in part(weights, "unet.").items()})
    unet.requires_grad_(False).train()  # train() only sets the precision that its layers multiply in
    model = ControlNet()
    model.load_state_dict({k: v for k, v in unet.state_dict().items() if k in model.state_dict()}, strict=False)
    run = Run("controlnet", model.train(), options.steps, options.lr, average=0.99, warmup=50)
    snr = ALPHA_BAR / (1 - ALPHA_BAR)
    weight = snr.clamp(max=MIN_SNR) / snr
    while run.step < run.steps:
        g = torch.Generator().manual_seed(run.step)
        rows = torch.randint(CAPTIONS, (BATCH,), generator=g)
        picture = torch.randint(PICTURES, (REPEAT, BATCH), generator=g)
        x = latents[rows.expand(REPEAT, BATCH), picture].flatten(0, 1)
        hint = outlines[rows.expand(REPEAT, BATCH), picture].flatten(0, 1).float().expand(-1, 3, -1, -1)
        text = context[torch.where(torch.rand(BATCH, generator=g) < EMPTY, CAPTIONS, rows)]
        t = torch.randint(STEPS, (REPEAT * BATCH,), generator=g)
        noise = torch.randn(x.shape, generator=g)
        noisy = add_noise(x, noise, t)
        predicted = controlled(unet, model(noisy, hint, t, text), noisy, t, text)
        run.update((weight[t] * (predicted - noise).square().mean((1, 2, 3))).mean())
    save({k: v.half() for k, v in run.weights().items()}, WEIGHTS / "controlnet.safetensors")


if __name__ == "__main__":
    main()
