"""A look at the UNet while it trains: pictures of its averaged weights, and what the judge sees in them."""

from __future__ import annotations

import argparse
import logging

import torch
from autoencoder import load_autoencoder
from captions import PROMPT_KINDS, prompts
from common import RUNS, save_grid
from compact import Model
from evaluate import draw
from judge import JUDGE_FILE, judge_all, load_judge
from text_encoder import load_text_encoder
from train_unet import BATCH
from unet import UNet

log = logging.getLogger(__name__)


def model_in_training() -> tuple[Model, int]:
    """The model with the averaged weights of the last saved state, and the pictures it has seen."""
    state = torch.load(RUNS / "unet.pt", weights_only=True, mmap=True)
    unet = UNet().to(memory_format=torch.channels_last).eval().requires_grad_(False)
    for parameter, value in zip(unet.parameters(), state["averaged"], strict=True):
        parameter.copy_(value)
    return Model(unet, load_text_encoder(), load_autoencoder()), state["step"] * BATCH


def look(count: int, kind: str) -> None:
    model, seen = model_in_training()
    captions = prompts(kind, count)
    pictures = draw(model, captions, seed=0)
    path = RUNS / "look" / f"{kind.replace(' ', '_')}_{seen // 1000}k.png"
    save_grid(pictures[:48], path)
    log.info("%d pictures seen; wrote %s", seen, path)
    if JUDGE_FILE.exists():
        verdict = judge_all(load_judge(), pictures)
        for name in ("concept", "style", "background"):
            truth = torch.tensor([getattr(caption, name) for caption in captions])
            right = (getattr(verdict, name).argmax(1) == truth).float().mean()
            log.info("%s right in %.1f %% (n %d)", name, 100 * right, count)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--kind", choices=PROMPT_KINDS, default="explicit")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    look(arguments.pictures, arguments.kind)
