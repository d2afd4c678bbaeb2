"""A CLIP as a differentiable function of its token vectors, for trce_ops.tuning and trce_ops.attacks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import chain

import torch
from torch import Tensor

from ...trce_ops.text.tokens import Ids, first_eot
from ...trce_ops.tuning.soft_prompts import Row
from ...trce_ops.tuning.text_batch import Texts
from .dynamic_vram import clip_without_dynamic_vram
from .encoders import ClipEncoder
from .prefix_tree import device_context
from .training_mode import training
from .training_weights import copied, load_bare, normal, patched, with_hooks
from .weights import ModelWeights

WORD = re.compile(r"[a-z]+</w>")  # a token that is a whole word; the others continue one


class HostSoftEncoder:
    """trce_ops.tuning.soft_prompts.SoftEncoder for a loaded CLIP. Vectors of several encoders are concatenated.

    weights: of every encoder, as tensors that autograd may save. pools: whether the model reads a pooled vector.
    """

    def __init__(self, hard: ClipEncoder, weights: dict[str, dict[str, Tensor]], pools: bool):
        self.hard, self.weights, self.pools = hard, weights, pools
        self.eot_id = hard.eot_id
        tables = {name: encoder.transformer.get_input_embeddings() for name, encoder in hard.encoders.items()}
        self.tables = {
            name: weights[name][key]
            for name, encoder in hard.encoders.items()
            for key, weight in encoder.named_parameters()
            if weight is tables[name].weight
        }
        self.storages = {W.untyped_storage().data_ptr() for part in weights.values() for W in part.values()}

    def close(self) -> None:
        """Release the text encoders. This one cannot be called any more."""
        del self.hard, self.weights, self.tables

    def tokenize(self, text: str) -> Ids:
        return self.hard.tokenize(text)

    def look_up(self, ids: Sequence[int]) -> Tensor:  # (n, e)
        rows = torch.tensor(list(ids))
        return torch.cat([table[rows.to(table.device)].float().cpu() for table in self.tables.values()], 1)

    def products(self, vectors: Tensor) -> Tensor:  # (k, e) -> (k, V) CPU
        parts = ((vectors[:, self.hard.parts[name]], table) for name, table in self.tables.items())
        return reduce(torch.add, ((part.to(table.device) @ table.mT.float()).cpu() for part, table in parts))

    def words(self) -> tuple[Tensor, list[str]]:
        name, table = next(iter(self.tables.items()))
        tokenizer = getattr(self.hard.clip.tokenizer, f"clip_{name}")
        known = table.float().abs().sum(1).cpu() > 0  # small encoders may know only some words
        found = {
            token: spelled.removesuffix("</w>")
            for token, spelled in sorted(tokenizer.inv_vocab.items())  # its own order differs from process to process
            if WORD.fullmatch(spelled) and token < len(known) and known[token]
        }
        return torch.tensor(list(found)), list(found.values())

    def encode(self, rows: Sequence[Row]) -> Texts:
        sequences, pooled = [], {}
        for name, encoder in self.hard.encoders.items():
            part = self.hard.parts[name]
            given = [[x if isinstance(x, int) else x[part] for x in self._in_stream(row, name)] for row in rows]
            with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept):
                z, one = torch.func.functional_call(encoder, self.weights[name], (given,))[:2]
            sequences.append(z.float())
            if self.pools and name in self.hard.pools:
                pooled[name] = one
        return Texts(torch.cat(sequences, -1), self.hard.join_pooled(pooled) if pooled else None)

    def _keep(self, saved: Tensor) -> Tensor:
        """CLIP's layers change their input in place, so autograd saves a copy of everything except the weights."""
        storage = saved.untyped_storage()
        if storage.data_ptr() in self.storages:
            return saved
        # With the strides that it has: attention kernels of CUDA ask for masks whose rows are aligned
        return saved.new_empty(0).set_(storage.clone(), saved.storage_offset(), saved.shape, saved.stride())

    def _in_stream(self, row: Row, name: str) -> list[int | Tensor]:
        """The row with the padding of another stream."""
        end = 1 + first_eot([-1 if torch.is_tensor(x) else x for x in row], self.eot_id)
        return [*row[:end], *[self.hard.pads[name]] * (len(row) - end)]


@contextmanager
def open_encoder(clip, pools: bool, hard: ClipEncoder | None = None) -> Iterator[HostSoftEncoder]:
    """Load CLIP, with its patches on copies of its weights.

    pools: whether the diffusion model reads a pooled vector. hard: how the model reads the CLIP, if not as it stands.
    What other nodes inject into its layers, such as a LoRA in bypass mode, takes no part.
    """
    with clip_without_dynamic_vram(clip) as clip, training():
        whole, bare = with_hooks(clip.patcher), clip.clone()
        bare.patcher = load_bare(clip.patcher, copied(whole))
        hard = ClipEncoder(bare, tuple(hard.encoders), hard.learned, tuple(hard.pools)) if hard else ClipEncoder(bare)
        device = hard.load()

        def weight(key: str, tensor: Tensor) -> Tensor:
            if key in whole.patches:
                return patched(ModelWeights(whole), key, device, torch.float32)
            return normal(tensor.to(device))

        with torch.inference_mode(False), torch.enable_grad(), device_context(device):
            weights = {
                name: {
                    key: weight(f"clip_{name}.{key}", tensor)
                    for key, tensor in chain(encoder.named_parameters(), encoder.named_buffers())
                }
                for name, encoder in hard.encoders.items()
            }
            encoder = HostSoftEncoder(hard, weights, pools)
            try:
                yield encoder
            finally:
                encoder.close()
