"""The beginnings of prompts through one of ComfyUI's CLIP text encoders, by themselves or as a tree of them.

CLIPTextModel adds its whole table of positions to its input, whatever the length. For one call it is lent another
table, with a row for every token that it is given; the module itself is not touched.
"""

from __future__ import annotations

from collections.abc import Sequence

import comfy.model_management
import torch
from torch import Tensor

from ..trce_ops.prefixes import Ids, PrefixTree

POSITIONS = "text_model.embeddings.position_embedding.weight"


def encode_rows(encoder, rows: Sequence[Ids], length: int, device: torch.device) -> Tensor:  # (n, length, d) CPU
    """The first `length` tokens of every row through `encoder`, an SDClipModel with a CLIPTextModel, on `device`."""
    table = {f"transformer.{POSITIONS}": encoder.transformer.get_parameter(POSITIONS)[:length]}
    with comfy.model_management.cuda_device_context(device):
        z = torch.func.functional_call(encoder, table, ([list(ids[:length]) for ids in rows],))[0]
    return z.float().cpu()


def encode_tree(encoder, tree: PrefixTree, device: torch.device) -> Tensor:  # (n, d) float32, CPU
    """All tokens of the tree through the same kind of encoder: each with the position it has in its prompts."""
    transformer = encoder.transformer
    table = {POSITIONS: transformer.get_parameter(POSITIONS)[tree.places]}
    with comfy.model_management.cuda_device_context(device):
        tokens = torch.tensor([tree.tokens], device=device)
        last, hidden, *_ = torch.func.functional_call(
            transformer,
            table,
            (None, tree.sees()[None].to(device)),
            {
                "embeds": transformer.get_input_embeddings()(tokens, out_dtype=torch.float32),
                "num_tokens": [len(tree)],
                "intermediate_output": encoder.layer_idx,
                "final_layer_norm_intermediate": encoder.layer_norm_hidden_state,
                "dtype": torch.float32,
            },
        )
    return (last if encoder.layer == "last" else hidden)[0].float().cpu()
