"""Takes autoencoder and text encoder out of the model file that ships, so that the UNet's training can go on with them.

The UNet knows only latents and embeddings of these two; trained anew, they would be others.
"""

from __future__ import annotations

import logging

import autoencoder
import text_encoder
from common import save_tensors
from compact import MODEL_FILE, load_compact

log = logging.getLogger(__name__)


def restore() -> None:
    """Writes what is not there; does nothing before a first model has shipped."""
    if not MODEL_FILE.exists():
        return
    model = load_compact()
    if not autoencoder.SD15.file.exists():
        save_tensors(model.autoencoder.state_dict(), autoencoder.SD15.file)
        log.info("the autoencoder is that of %s", MODEL_FILE.name)
    if not text_encoder.WEIGHTS_FILE.exists():
        save_tensors(model.text_encoder.state_dict(), text_encoder.WEIGHTS_FILE)
        log.info("the text encoder is that of %s", MODEL_FILE.name)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    restore()
