"""A tree of prompts through one of ComfyUI's CLIP text encoders: every common beginning computed once."""

from __future__ import annotations

import comfy.model_management
import torch
from torch import Tensor

from ..trce_ops.prefixes import PrefixTree

POSITIONS = "text_model.embeddings.position_embedding.weight"


def encode_tree(encoder, tree: PrefixTree, device: torch.device) -> Tensor:  # (n, d) float32, CPU
    """What `encoder`, an SDClipModel with a CLIPTextModel on `device`, makes of every token of the tree.

    CLIPTextModel takes no positions and adds its whole table to its input: for this one call it is lent another, in
    which every token has the row of its place in its prompt. The module itself is not touched.
    """
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
