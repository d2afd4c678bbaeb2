"""Trains the flow world's transformer as a rectified flow, on the pictures and captions that the UNet was trained on.

On a GPU it takes minutes: --device cuda --minutes 5 trains for that long, and the learning rate falls to zero by then.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from dataclasses import dataclass

import torch
from autoencoder import SD3, load_autoencoder
from captions import prompts, training_caption
from common import RUNS, save_grid, save_tensors
from flow import WEIGHTS_FILE, Text, read, sample, shifted, transformer
from judge import judge_all, load_judge
from pictures import drawings, render
from text_encoder import load_text_encoder
from torch import Tensor
from training import Run
from world import BACKGROUNDS, STYLES, concepts

BATCH, LR = 512, 1e-3
CAPTIONS, VIEWS = 800, 16  # of each concept, and of each drawing on each background
EMPTY, NO_POOLED = 0.1, 0.3  # shares of captions that are left empty, and whose pooled vector is zero
log = logging.getLogger(__name__)


@dataclass
class Pool:
    """All that training reads, encoded once, on its device."""

    text: Text  # last the empty prompt's
    said: Tensor  # (captions, 3): concept, style, background, or -1
    latents: Tensor  # (concepts, styles, backgrounds, VIEWS, 16, 8, 8)

    @classmethod
    @torch.no_grad()
    def encoded(cls, device: str, captions: int, views: int) -> Pool:
        rng = random.Random(2)
        said = [training_caption(index, rng) for _ in range(captions) for index in range(len(concepts()))]
        text = read(load_text_encoder().to(device), [caption.text for caption in said] + [""])
        autoencoder, generator = load_autoencoder(SD3).to(device), torch.Generator().manual_seed(4)
        sizes = (len(STYLES), len(BACKGROUNDS), views)
        style, background, _ = (i.flatten() for i in torch.meshgrid(*map(torch.arange, sizes), indexing="ij"))
        rows = []
        for index in range(len(concepts())):
            pictures = render(drawings()[index][style], background, generator)
            parts = [autoencoder.encode(part.to(device)) for part in pictures.split(512)]
            rows.append(torch.cat(parts).unflatten(0, sizes).bfloat16())
        facts = [(caption.concept, caption.style, caption.background) for caption in said]
        return cls(text, torch.tensor(facts), torch.stack(rows))

    def batch(self, step: int) -> tuple[Tensor, Text]:
        """Latents (BATCH, 16, 8, 8) and what describes them: a function of the step alone."""
        generator = torch.Generator().manual_seed(step)
        device, views = self.latents.device, self.latents.shape[3]

        def random(high: int) -> Tensor:
            return torch.randint(high, (BATCH,), generator=generator)

        rows = random(len(self.said))
        concept, style, background = self.said[rows].T
        style = torch.where(style < 0, random(len(STYLES)), style)
        background = background.clamp(min=list(BACKGROUNDS).index("white"))  # unsaid is white
        latents = self.latents[tuple(i.to(device) for i in (concept, style, background, random(views)))].float()
        left_empty, unpooled = torch.rand(2, BATCH, generator=generator)
        rows = torch.where(left_empty < EMPTY, len(self.said), rows).to(device)
        pooled = self.text[1][rows] * (unpooled >= NO_POOLED).to(device)[:, None]
        return latents, (self.text[0][rows].float(), pooled.float())


def noise_levels(count: int, generator: torch.Generator) -> Tensor:
    """Logit-normal (Esser et al. 2024, equation 19), shifted as they are sampled; one in ten uniform."""
    u = torch.randn(count, generator=generator).sigmoid()
    uniform = torch.rand(2, count, generator=generator)
    return shifted(torch.where(uniform[0] < 0.1, uniform[1], u))


def train(device: str, steps: int, minutes: float, compiled: bool) -> None:
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    start = time.monotonic()
    pool = Pool.encoded(device, CAPTIONS, VIEWS)
    log.info("pool: %.0f s; latents %.3f +- %.3f", time.monotonic() - start, *moments(pool.latents))
    log.info("pool: embeddings %.3f +- %.3f, pooled %.3f +- %.3f", *moments(pool.text[0]), *moments(pool.text[1]))
    model = transformer().to(device)
    run = Run("flow", model, steps, LR, decay_from=steps // 2, warmup=500, average=0.9995, save_every=120)
    forward = torch.compile(model, dynamic=False) if compiled else model
    began, first = time.monotonic(), run.step
    while not run.done:
        x0, (context, pooled) = pool.batch(run.step)
        generator = torch.Generator().manual_seed(run.step)
        level = noise_levels(BATCH, generator).to(device)
        noise = torch.randn(x0.shape, device=device)
        mix = level[:, None, None, None]
        with torch.autocast(device, torch.bfloat16):
            velocity = forward((1 - mix) * x0 + mix * noise, level * 1000, context, pooled)
        run.update((velocity.float() - (noise - x0)).square().mean())
        if minutes and (run.step - first) % 50 == 0:  # the steps that the time left has room for
            passed, ended = time.monotonic() - began, 60 * minutes - (time.monotonic() - start)
            run.steps = run.step + max(0, int(ended * (run.step - first) / passed))
            run.decay_from = run.steps // 2
    run.save()
    run.use_average()
    save_tensors(model.state_dict(), WEIGHTS_FILE, {"pictures": str(run.step * BATCH)})
    log.info("%d pictures in %.0f s", run.step * BATCH, time.monotonic() - start)
    look(model.eval(), device)


def moments(values: Tensor) -> tuple[float, float]:
    values = values[:: max(1, len(values) // 500)].float()
    return values.mean().item(), values.std().item()


@torch.no_grad()
def look(model: torch.nn.Module, device: str, count: int = 192) -> None:
    """Logs how often the judge sees what was asked for, and writes the first pictures of each kind."""
    encoder, autoencoder, judge = load_text_encoder().to(device), load_autoencoder(SD3).to(device), load_judge()
    empty = read(encoder, [""])
    for kind in ("explicit", "explicit held out", "synonym", "described", "described held out"):
        captions = prompts(kind, count)
        latents = sample(model, read(encoder, [caption.text for caption in captions]), empty)
        pictures = autoencoder.decode(latents).clamp(0, 1).float().cpu()
        seen = judge_all(judge, pictures)
        rates = [
            (getattr(seen, name).argmax(1) == torch.tensor([getattr(c, name) for c in captions])).float().mean()
            for name in ("concept", "style", "background")
        ]
        log.info("%-20s %d pictures: concept %.3f, style %.3f, background %.3f", kind, count, *rates)
        save_grid(pictures[:48], RUNS / "look" / f"flow_{kind.replace(' ', '_')}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=4_000_000, help="train until this many pictures were seen")
    parser.add_argument("--minutes", type=float, default=0, help="instead: for so long, the pool included")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    train(arguments.device, arguments.pictures // BATCH, arguments.minutes, arguments.compile)
