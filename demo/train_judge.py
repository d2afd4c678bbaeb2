"""Trains the judge: `python demo/train_judge.py` (resumes). Needs the autoencoder.

Half of the pictures have been through the autoencoder, with noise on the latents: the judge must know its
soft edges, or it would call them broken. A third show none of the shapes.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from autoencoder import Autoencoder
from common import WEIGHTS, Run, load_weights, save
from drawing import draw, draw_broken, random_attributes
from judge import NONE, Judge
from torch import Tensor

BATCH = 48
LATENT_NOISE = 0.15


def examples(n: int, autoencoder: Autoencoder, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, 64, 64) and labels (n, 4); a third are broken, every second one went through the autoencoder."""
    attributes = random_attributes(n, generator)
    broken = n // 3
    x = torch.cat([draw_broken(attributes[:broken], generator), draw(attributes[broken:], generator)])
    labels = torch.stack([attributes.shape, attributes.colour, attributes.style, attributes.background], 1)
    labels[:broken, 0] = NONE
    with torch.no_grad():
        z = autoencoder.encode(x[::2])
        strength = LATENT_NOISE * torch.rand(len(z), 1, 1, 1, generator=generator)
        x[::2] = autoencoder.decode(z + strength * torch.randn(z.shape, generator=generator)).clamp(0, 1)
    return x, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    options = parser.parse_args()

    torch.manual_seed(0)
    autoencoder = Autoencoder()
    autoencoder.load_state_dict(load_weights("autoencoder"))
    model = Judge()
    run = Run("judge", model, options.steps, options.lr, average=0.99)
    while run.step < run.steps:
        generator = torch.Generator().manual_seed(run.step)
        x, labels = examples(BATCH, autoencoder, generator)
        logits, _ = model.logits(x)
        real = labels[:, 0] != NONE  # a broken drawing's style may be as broken as its shape
        style = F.cross_entropy(logits[2][real], labels[real, 2])
        rest = sum(F.cross_entropy(logits[i], labels[:, i]) for i in (0, 1, 3))
        run.update(style + rest)

    model.load_state_dict(run.weights())
    model.eval()
    x, labels = examples(3000, autoencoder, torch.Generator().manual_seed(1 << 32))
    verdict = model(x)
    answers = (verdict.shape, verdict.colour, verdict.style, verdict.background)
    right = torch.stack([p.argmax(1) for p in answers], 1) == labels
    real = labels[:, 0] != NONE
    clean = torch.arange(len(x)) % 2 == 1
    for name, rows in (("drawings", real & clean), ("through the autoencoder", real & ~clean)):
        rates = [
            f"{what} {right[rows, i].float().mean():.2%}"
            for i, what in enumerate(("shape", "colour", "style", "background"))
        ]
        print(f"judge on {int(rows.sum())} {name}: {', '.join(rates)}")
    print(f"judge on {int((~real).sum())} broken drawings: none of these {right[~real, 0].float().mean():.2%}")
    save({k: v.half() for k, v in model.state_dict().items()}, WEIGHTS / "judge.safetensors")


if __name__ == "__main__":
    main()
