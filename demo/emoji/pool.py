"""What the UNet trains on, encoded once: embeddings of captions, and latents of every drawing on every background."""

from __future__ import annotations

import logging
import random

import torch
from autoencoder import load_autoencoder
from captions import training_caption
from common import RUNS, save_tensors
from pictures import drawings, render
from text_encoder import encode, load_text_encoder
from torch import Tensor
from world import BACKGROUNDS, STYLES, concepts

CAPTIONS = 400  # of each concept
VIEWS = 12  # augmented pictures of each drawing on each background
CAPTION_POOL = RUNS / "caption_pool.safetensors"
LATENT_POOL = RUNS / "latent_pool.safetensors"
log = logging.getLogger(__name__)


def encode_captions() -> None:
    """CAPTIONS of each concept, and last the empty one, with what each says (concept, style, background or -1)."""
    rng = random.Random(2)
    captions = [training_caption(index, rng) for _ in range(CAPTIONS) for index in range(len(concepts()))]
    embeddings = encode(load_text_encoder(), [caption.text for caption in captions] + [""])
    said = torch.tensor([(caption.concept, caption.style, caption.background) for caption in captions])
    save_tensors({"embeddings": embeddings, "said": said}, CAPTION_POOL)
    log.info("pool: %d captions", len(captions))


@torch.no_grad()
def encode_latents() -> None:
    """bfloat16 (concepts, styles, backgrounds, VIEWS, 4, 8, 8)."""
    autoencoder = load_autoencoder()
    generator = torch.Generator().manual_seed(4)
    sizes = (len(STYLES), len(BACKGROUNDS), VIEWS)
    style, background, _ = (i.flatten() for i in torch.meshgrid(*(torch.arange(size) for size in sizes), indexing="ij"))
    rows: list[Tensor] = []
    for index in range(len(concepts())):
        pictures = render(drawings()[index][style], background, generator).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            rows.append(autoencoder.encode(pictures).unflatten(0, sizes).bfloat16())
    latents = torch.stack(rows)
    save_tensors({"latents": latents}, LATENT_POOL)
    log.info("pool: latents, mean %.3f, deviation %.3f", latents.float().mean(), latents.float().std())


def build() -> None:
    """Encodes what is not there yet."""
    if not LATENT_POOL.exists():
        encode_latents()
    if not CAPTION_POOL.exists():
        encode_captions()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    build()
