"""Trains the whole emoji world, stage by stage, on one core; a stage that is done is not done again.

python demo/emoji/train.py            all stages; stop and go on at any time
python demo/emoji/train.py --status   only says what is done and how long the rest takes
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
RUNS = HERE.parent / "runs" / "emoji"
WEIGHTS = HERE / "weights"
# glibc gives memory back and asks for it anew at every step otherwise, which costs a third of the time
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**35)}


def unpacked() -> bool:
    folders = ("noto", "twemoji", "3d", "line_art", "cldr", "emojilib", "wordnet", "teacher")
    return all((RUNS / "packages" / folder / ".unpacked").exists() for folder in folders)


@dataclass(frozen=True)
class Stage:
    """One script; `minutes` is what it takes on one core of a 2026 server processor with AMX."""

    script: str
    makes: str
    minutes: int
    done: Callable[[], bool]


STAGES = (
    Stage("fetch.py", "the public packages", 2, unpacked),
    Stage("pictures.py", "the drawings", 1, (RUNS / "drawings.safetensors").exists),
    Stage("phrases.py", "words.tsv", 1, (HERE / "words.tsv").exists),
    Stage("train_autoencoder.py", "the autoencoder", 10, (RUNS / "autoencoder.safetensors").exists),
    Stage("train_text_encoder.py", "the text encoder", 12, (RUNS / "text_encoder.safetensors").exists),
    Stage("pool.py", "the pool", 5, (RUNS / "caption_pool.safetensors").exists),
    Stage("train_judge.py", "the judge", 12, (WEIGHTS / "judge.safetensors").exists),
    Stage("train_unet.py", "the UNet", 200, (RUNS / "unet.safetensors").exists),
    Stage("pack_model.py", "the model file", 1, (WEIGHTS / "model.safetensors").exists),
    Stage("evaluate.py", "the rates and samples.png", 6, (HERE / "evaluation.json").exists),
)
log = logging.getLogger(__name__)


def status() -> int:
    """Logs every stage; returns the minutes that are left."""
    left = 0
    for stage in STAGES:
        done = stage.done()
        left += 0 if done else stage.minutes
        log.info("%-24s %-26s %s", stage.script, stage.makes, "done" if done else f"some {stage.minutes} minutes")
    log.info("some %d minutes left in all", left)
    return left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--status", action="store_true", help="only say what is done")
    only_status = parser.parse_args().status
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    status()
    if only_status:
        return 0
    environment = {**MALLOC, "OMP_NUM_THREADS": "1", **os.environ}
    for number, stage in enumerate(STAGES, 1):
        if stage.done():
            continue
        log.info("stage %d of %d: %s", number, len(STAGES), stage.makes)
        start = time.monotonic()
        code = subprocess.run([sys.executable, str(HERE / stage.script)], env=environment).returncode
        if code:
            log.error("%s ended with code %d; run again to go on from there", stage.script, code)
            return code
        log.info("%s: %.0f minutes", stage.makes, (time.monotonic() - start) / 60)
    return 0


if __name__ == "__main__":
    sys.exit(main())
