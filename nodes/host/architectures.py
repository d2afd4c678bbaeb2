"""What tuning trains and computes again in each kind of network, by the names of its modules.

`trained` has sets of projections: `text`, the keys and values of the text stream; `wide`, all attention; `blocks`, all
matrices; `added`, the queries and keys of a text stream that has matrices of its own. `blocks` are the modules that are
computed again in the backward pass. Families that share an architecture share an entry (families.py).
"""

from __future__ import annotations

from ...trce_ops.tuning.factors import ADDED, TRAINED

UNET_BLOCKS = r"(input_blocks|output_blocks)\.\d+\.\d+|middle_block\.\d+"
UNET = {"trained": TRAINED, "blocks": UNET_BLOCKS}


def _sets(text: str, attention: str, others: str, added: str = "") -> dict[str, str]:
    sets = {"text": text, "wide": attention, "blocks": f"{attention}|{others}"}
    return sets | {ADDED: added} if added else sets


MMDIT = {
    "trained": _sets(
        r"context_block\.attn\.qkv",
        r"(context|x)_block\.attn2?\.(qkv|proj)",
        r"(context|x)_block\.mlp\.fc[12]",
        r"context_block\.attn\.qkv",
    ),
    "blocks": r"joint_blocks\.\d+",
}
DOUBLE_STREAM = {  # its single-stream blocks have queries, keys, values and the rest of a block in one matrix
    "trained": _sets(
        r"txt_attn\.qkv",
        r"(txt|img)_attn\.(qkv|proj)",
        r"(txt|img)_mlp\.[02]|single_blocks\.\d+\.linear[12]",
        r"txt_attn\.qkv",
    ),
    "blocks": r"(double|single)_blocks\.\d+",
}
SINGLE_STREAM = {  # text and picture pass the same matrices
    "trained": _sets(
        r"layers\.\d+\.attention\.qkv",
        r"layers\.\d+\.attention\.(qkv|out)",
        r"layers\.\d+\.feed_forward\.w[123]",
    ),
    "blocks": r"layers\.\d+",
}
DIFFUSERS_JOINT = {
    "trained": _sets(
        r"attn\.add_[kv]_proj",
        r"attn\.(to_[qkv]|add_[qkv]_proj|to_out\.0|to_add_out)",
        r"(img|txt)_mlp\.net\.(0\.proj|2)",
        r"attn\.add_[qk]_proj",
    ),
    "blocks": r"transformer_blocks\.\d+",
}
CROSS_KV_LINEAR = {
    "trained": _sets(
        r"cross_attn\.kv_linear", r"attn\.(qkv|proj)|cross_attn\.(q_linear|kv_linear|proj)", r"mlp\.fc[12]"
    ),
    "blocks": r"blocks\.\d+",
}
CROSS_PROJ = {
    "trained": _sets(
        r"cross_attn\.[kv]_proj",
        r"(self|cross)_attn\.(q|k|v|output)_proj",
        r"mlp\.layer[12]",
    ),
    "blocks": r"blocks\.\d+",
}
WAN = {
    "trained": _sets(r"cross_attn\.[kv]", r"(self|cross)_attn\.[qkvo]", r"ffn\.[02]"),
    "blocks": r"blocks\.\d+",
}
COGVIDEO = {  # text and picture pass the same matrices
    "trained": _sets(r"blocks\.\d+\.[kv]", r"blocks\.\d+\.([qkv]|attn_out)", r"blocks\.\d+\.ff_(proj|out)"),
    "blocks": r"blocks\.\d+",
}
AURA = {
    "trained": _sets(r"double_layers\.\d+\.attn\.w1[kv]", r"attn\.w[12][qkvo]", r"mlp[CX]?\.(c_fc[12]|c_proj)"),
    "blocks": r"(double|single)_layers\.\d+",
}
