"""Encodes a tree of prompts with common beginnings by one of ComfyUI's CLIP text encoders.

CLIPTextModel adds its whole position table to its input, whatever the length. For one call it is given another table,
with a row for every token of the tree; the module is not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import comfy.model_management
import torch
from torch import Tensor

from ...trce_ops.text.prefix_tree import PrefixTree

# ComfyUI before 0.24 has no such function and computes on the current device.
device_context = getattr(comfy.model_management, "cuda_device_context", nullcontext)

POSITIONS = "text_model.embeddings.position_embedding.weight"


def encode_tree(
    encoder, tree: PrefixTree, ids: Sequence[int | Tensor], device: torch.device
) -> tuple[Tensor, Tensor]:  # (n, d) float32, CPU, twice
    """All tokens of the tree through `encoder`, an SDClipModel with a CLIPTextModel, on `device`.

    ids: of the tokens, in the vocabulary of this encoder, and vectors (e,) of learned words. Each token has the
    position that it has in its prompts, and attends to what comes before it there. Returns the layer that the diffusion
    model is given, and the last layer.
    """
    transformer = encoder.transformer
    table = {POSITIONS: transformer.get_parameter(POSITIONS)[tree.places]}
    with device_context(device):
        vectors = {i: token for i, token in enumerate(ids) if torch.is_tensor(token)}
        tokens = torch.tensor([[0 if i in vectors else token for i, token in enumerate(ids)]], device=device)
        embeds = transformer.get_input_embeddings()(tokens, out_dtype=torch.float32)
        for i, vector in vectors.items():
            embeds[0, i] = vector.to(embeds)
        last, hidden, *_ = torch.func.functional_call(
            transformer,
            table,
            (None, tree.attention_mask()[None].to(device)),
            {
                "embeds": embeds,
                "num_tokens": [len(tree)],
                "intermediate_output": encoder.layer_idx,
                "final_layer_norm_intermediate": encoder.layer_norm_hidden_state,
                "dtype": torch.float32,
            },
        )
    return tuple(z[0].float().cpu() for z in (last if encoder.layer == "last" else hidden, last))
