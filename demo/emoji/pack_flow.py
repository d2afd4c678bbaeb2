"""Packs the trained transformer and its autoencoder as the compact flow model that ships."""

from __future__ import annotations

import logging

from autoencoder import SD3, load_autoencoder
from common import HERE, metadata_of
from compact import FLOW_FILE, FlowModel, load_compact, pack_flow
from flow import WEIGHTS_FILE
from safetensors.torch import load_file
from world import STYLES, concepts

log = logging.getLogger(__name__)


def main() -> None:
    model = FlowModel(load_file(WEIGHTS_FILE), load_compact().text_encoder, load_autoencoder(SD3))
    metadata = {
        "title": f"Emoji world, rectified flow: {len(concepts())} concepts in {len(STYLES)} styles, 64 x 64 pixels",
        "pictures": metadata_of(WEIGHTS_FILE)["pictures"],  # that it was trained on
        "attribution": (HERE / "ATTRIBUTION.md").read_text(),
    }
    pack_flow(model, metadata)
    log.info("wrote %s: %.1f MB", FLOW_FILE, FLOW_FILE.stat().st_size / 1e6)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
