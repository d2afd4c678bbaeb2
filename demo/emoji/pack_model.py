"""Packs the trained networks of a run as the compact model file that ships.

pack_model.py                the decayed weights of a finished run
pack_model.py --averaged     the averaged weights of the last saved state of a run that goes on
"""

from __future__ import annotations

import argparse
import logging

import torch
from captions import PROMPT_KINDS, prompts
from common import HERE, metadata_of
from compact import MODEL_FILE, pack
from look import model_in_training
from safetensors.torch import load_file
from text_encoder import START, token_rows
from train_text_encoder import prepare
from train_unet import WEIGHTS_FILE as UNET_FILE
from world import STYLES, concepts

log = logging.getLogger(__name__)


def tokens_that_occur() -> torch.Tensor:
    """Ids of the tokens of the distillation texts and of all prompts, and of every single character (sorted)."""
    rows = [*prepare()["rows"], *token_rows([c.text for kind in PROMPT_KINDS for c in prompts(kind, 2000)])]
    found = {token for row in rows for token in row if token < START}
    found.update(range(512))  # bytes, within a word and at its end
    return torch.tensor(sorted(found))


def main(averaged: bool) -> None:
    model, seen = model_in_training()
    if not averaged:
        model.unet.load_state_dict(load_file(UNET_FILE))
        seen = int(metadata_of(UNET_FILE)["pictures"])
    tokens = tokens_that_occur()
    metadata = {
        "title": f"Emoji world: {len(concepts())} concepts in {len(STYLES)} styles, 64 x 64 pixels",
        "pictures": str(seen),  # that the UNet was trained on
        "decayed": "no" if averaged else "yes",
        "attribution": (HERE / "ATTRIBUTION.md").read_text(),
    }
    pack(model, tokens, metadata)
    log.info("wrote %s: %.1f MB, %d token rows", MODEL_FILE, MODEL_FILE.stat().st_size / 1e6, len(tokens))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--averaged", action="store_true", help="pack a run that is not finished")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    main(parser.parse_args().averaged)
