"""Gathers what the training left into the file that ships: `python demo/pack_weights.py`.

demo/weights/model.safetensors holds, in float16, the two text layers with the embedding rows that the demo
language and the pack's own prompt templates use, the narrow UNet and the narrow autoencoder.
"""

from __future__ import annotations

import ast

import torch
from captions import TEMPLATES, training_captions
from common import WEIGHTS, load_weights, save
from text_encoder import tokenize

EMBEDDING = "text_encoder.text_model.embeddings.token_embedding.weight"


def words_of(folder: str) -> list[str]:
    """Every string of the pack's own prompt templates and benign captions."""
    files = [WEIGHTS.parents[1] / folder / name for name in ("templates.py", "benign.py")]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text()))]
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def main() -> None:
    parts = {name: load_weights(name) for name in ("text_encoder", "autoencoder", "unet")}
    # transformers has dropped this prefix from its names, checkpoints have not
    text = {f"text_model.{name.removeprefix('text_model.')}": t for name, t in parts["text_encoder"].items()}
    parts["text_encoder"] = text
    tensors = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
    captions = training_captions(20000, torch.Generator().manual_seed(2)).text
    own = [piece for text in words_of("trce_ops") for line in text.splitlines() for piece in line.split(",")]
    ids = tokenize([*captions, *TEMPLATES]).unique()
    ids = torch.cat([ids, tokenize([text[:200] for text in own]).flatten()]).unique()
    tensors[EMBEDDING] = tensors[EMBEDDING][ids]
    tensors = {name: tensor.half() for name, tensor in tensors.items() if "position_ids" not in name}
    tensors["text_encoder.token_ids"] = ids
    save(tensors, WEIGHTS / "model.safetensors")
    size = (WEIGHTS / "model.safetensors").stat().st_size / 1e6
    print(f"{WEIGHTS / 'model.safetensors'}: {size:.1f} MB, {len(ids)} embedding rows")


if __name__ == "__main__":
    main()
