"""Trains the judge (bf16, one thread, some 8 minutes) and measures it on pictures it has not seen.

Half of its pictures show a concept as rendered, a quarter after the autoencoder, a quarter none of them: other emoji,
blends of two concepts' latents, and noise.
"""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from autoencoder import Autoencoder, load_autoencoder
from common import RUNS, save_tensors
from judge import JUDGE_FILE, Judge, Verdict, judge_all
from pictures import drawings_of, fit, other_codes, random_batch, render
from safetensors.torch import load_file
from torch import Tensor
from training import Run
from world import BACKGROUNDS, SIZE, STYLES, concepts

STEPS, BATCH, LR = 2200, 96, 2e-3
POOL = 24_576  # pictures
UNSEEN = 300  # drawings of other emoji that are kept for the measurement
NONE = len(concepts())
OTHERS = RUNS / "other_drawings.safetensors"
log = logging.getLogger(__name__)


def other_drawings() -> Tensor:
    """uint8 (n, 4, SIZE, SIZE): emoji that are none of the concepts, in all styles; made once.

    The order is random by code point, so that one emoji's drawings stay on one side of the split.
    """
    if not OTHERS.exists():
        codes = list(other_codes())
        order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(3)).tolist()
        images = [image for i in order for image in drawings_of(codes[i]) if image is not None]
        save_tensors({"drawings": torch.stack([fit(image) for image in images])}, OTHERS)
    return load_file(OTHERS)["drawings"]


def random_others(drawings: Tensor, count: int, generator: torch.Generator) -> Tensor:
    chosen = drawings[torch.randint(len(drawings), (count,), generator=generator)]
    return render(chosen, torch.randint(len(BACKGROUNDS), (count,), generator=generator), generator)


@torch.no_grad()
def roundtrip(autoencoder: Autoencoder, pictures: Tensor, noise: float = 0.0) -> Tensor:
    out = []
    for part in pictures.split(256):
        with torch.autocast("cpu", torch.bfloat16):
            latents = autoencoder.encode(part.to(memory_format=torch.channels_last))
            out.append(autoencoder.decode(latents + noise * torch.randn_like(latents)).float().clamp(0, 1))
    return torch.cat(out)


@torch.no_grad()
def blends(autoencoder: Autoencoder, count: int, generator: torch.Generator, low: float = 0.35) -> Tensor:
    """Pictures decoded from mixtures of two different concepts' latents; the share of one is in [low, 1 - low]."""
    first, second = (random_batch(count, generator) for _ in range(2))
    share = torch.rand(count, 1, 1, 1, generator=generator) * (1 - 2 * low) + low
    mixed = share * autoencoder.encode(first[0]) + (1 - share) * autoencoder.encode(second[0])
    return autoencoder.decode(mixed).clamp(0, 1)[first[1] != second[1]]


def pool(autoencoder: Autoencoder) -> dict[str, Tensor]:
    """POOL pictures as uint8 with concept, style, background and whether the last two count."""
    generator = torch.Generator().manual_seed(11)
    torch.manual_seed(11)
    seen = other_drawings()[UNSEEN:]
    parts = []
    for _ in range(POOL // 1024):
        pictures, concept, style, background = random_batch(768, generator)
        pictures[512:] = roundtrip(autoencoder, pictures[512:], 0.1)
        strange = random_others(seen, 160, generator)
        strange[:64] = roundtrip(autoencoder, strange[:64], 0.1)
        noise = torch.randn(16, 4, 8, 8, generator=generator)
        none = torch.cat([strange, blends(autoencoder, 80, generator), autoencoder.decode(noise).detach().clamp(0, 1)])
        unknown = torch.zeros(len(none), dtype=torch.long)
        parts.append(
            {
                "pictures": (torch.cat([pictures, none]) * 255).round().byte(),
                "concept": torch.cat([concept, torch.full_like(unknown, NONE)]),
                "style": torch.cat([style, unknown]),
                "background": torch.cat([background, unknown]),
                "known": torch.cat([torch.ones(768, dtype=torch.bool), unknown.bool()]),
            }
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Moves a batch by up to three pixels, flips every other one, changes colours a little and adds noise."""
    down, right = torch.randint(0, 7, (2,), generator=generator).tolist()
    pictures = F.pad(pictures, (3, 3, 3, 3), mode="replicate")[..., down : down + SIZE, right : right + SIZE]
    flipped = torch.rand(len(pictures), 1, 1, 1, generator=generator) < 0.5
    pictures = torch.where(flipped, pictures.flip(3), pictures)
    tint = 1 + 0.1 * (torch.rand(len(pictures), 3, 1, 1, generator=generator) - 0.5)
    grain = 0.03 * torch.randn(len(pictures), 1, SIZE, SIZE, generator=generator)
    return (pictures * tint + grain).clamp(0, 1)


def train() -> None:
    torch.manual_seed(0)
    autoencoder = load_autoencoder()
    data = pool(autoencoder)
    log.info("judge: pool of %d pictures", len(data["pictures"]))
    judge = Judge().to(memory_format=torch.channels_last)
    run = Run("judge", judge, STEPS, LR, decay_from=STEPS // 5, average=0.99, weight_decay=0.02, save_every=120)
    while not run.done:
        generator = torch.Generator().manual_seed(run.step)
        rows = torch.randint(len(data["pictures"]), (BATCH,), generator=generator)
        batch = {name: values[rows] for name, values in data.items()}
        pictures = augment(batch["pictures"].float() / 255, generator).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            verdict = judge(pictures)
        loss = F.cross_entropy(verdict.concept, batch["concept"])
        known = batch["known"]
        for name in ("style", "background"):
            loss = loss + 0.4 * F.cross_entropy(getattr(verdict, name)[known], batch[name][known])
        run.update(loss)
    run.use_average()
    judge.eval()
    save_tensors({name: value.half() for name, value in judge.state_dict().items()}, JUDGE_FILE)
    measure(judge, autoencoder)


def share(hits: Tensor) -> str:
    return f"{100 * hits.float().mean():.1f} %"


@torch.no_grad()
def measure(judge: Judge, autoencoder: Autoencoder, count: int = 2000) -> None:
    """Logs accuracies on fresh pictures and the pairs of concepts that are confused most."""
    generator = torch.Generator().manual_seed(77)
    pictures, concept, style, background = random_batch(count, generator)
    said: dict[str, Verdict] = {}
    for name, shown in (("augmented", pictures), ("autoencoded", roundtrip(autoencoder, pictures))):
        verdict = said[name] = judge_all(judge, shown)
        right = verdict.concept.argmax(1) == concept
        each = ", ".join(f"{kind} {share(right[style == i])}" for i, kind in enumerate(STYLES))
        log.info("judge, %s (n %d): concept %s (%s)", name, count, share(right), each)
        styles, backgrounds = verdict.style.argmax(1) == style, verdict.background.argmax(1) == background
        log.info("    style %s, background %s", share(styles), share(backgrounds))
    wrong: dict[tuple[str, str], int] = {}
    names = [c.name for c in concepts()] + ["none of these"]
    for truth, found in zip(concept.tolist(), said["autoencoded"].concept.argmax(1).tolist(), strict=True):
        if truth != found:
            wrong[names[truth], names[found]] = wrong.get((names[truth], names[found]), 0) + 1
    log.info("    confused: %s", sorted(wrong.items(), key=lambda item: -item[1])[:8])
    unseen = random_others(other_drawings()[:UNSEEN], 600, generator)
    for name, shown in (
        ("unseen other emoji", unseen),
        ("half-and-half blends", blends(autoencoder, 600, generator, low=0.5)),
        ("noise", autoencoder.decode(torch.randn(600, 4, 8, 8, generator=generator)).clamp(0, 1)),
    ):
        none = judge_all(judge, shown).concept.argmax(1) == NONE
        log.info("judge, %s (n %d): none of these %s", name, len(shown), share(none))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    train()
