"""ComfyUI's CLIPs as trce_ops.text.embeddings.TextEncoder, and which encoder serves which kind of a model's text.

LoRAs on the CLIP and clip skip are honoured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import comfy.clip_model
import comfy.model_management
import torch
from torch import Tensor

from ...trce_ops.delta.file import MAX_WIDTH
from ...trce_ops.text.embeddings import BATCH, EotEncoder, Pooled, TextEncoder
from ...trce_ops.text.learned_words import NO_WORDS, LearnedWords
from ...trce_ops.text.prefix_tree import PrefixTree
from ...trce_ops.text.tokens import CHUNK, Ids, TokenError, first_eot
from .errors import HostError
from .fingerprint import encoder_fingerprint, encoding_key
from .literal import check_literal
from .prefix_tree import device_context, encode_tree
from .readers import CLIP_ROWS, CONTEXT, LLAMA, POOLED, Norm, TextReaders
from .sequence_encoder import CLIPS, LlamaEncoder, SequenceEncoder

ORDER = ("l", "g", "h")  # how ComfyUI lays the embeddings of several CLIPs side by side
POOLS = ("g",)  # the CLIPs whose pooled vectors diffusion models are given, side by side
SD3_POOLS = {"l": 768, "g": 1280}  # both, with zeros for one that is missing
POSITIONS = "transformer.text_model.embeddings.position_embedding.weight"


class ClipEncoder(EotEncoder):
    """One CLIP text encoder, or several whose embeddings stand side by side, as L and G do in SDXL.

    All encoders get the same ids except for padding (CLIP-L pads with EoT, CLIP-G with 0), so the ids of the first
    encoder represent them all.
    """

    def __init__(
        self, clip, streams: Sequence[str] = (), learned: LearnedWords = NO_WORDS, pools: Sequence[str] = POOLS
    ):
        model = clip.cond_stage_model
        self.learned = learned
        self.clip = clip
        names = streams or clip_streams(clip)
        self.encoders = {name: _clip(model, name) for name in names}
        transformers: list[Any] = [getattr(encoder, "transformer", None) for encoder in self.encoders.values()]
        if not transformers or not all(isinstance(t, comfy.clip_model.CLIPTextModel) for t in transformers):
            raise HostError(
                f"The connected 'clip' is a {type(model).__name__} without the CLIP text encoders that 'model' reads; "
                "connect the CLIP of the same checkpoint."
            )
        widths = [t.text_model.embeddings.position_embedding.weight.shape[1] for t in transformers]
        self.width = sum(widths)
        ends = list(accumulate(widths, initial=0))
        self.parts = {name: slice(*part) for name, part in zip(names, pairwise(ends))}  # of a vector, by encoder
        self.eot_id = self.encoders[names[0]].special_tokens["end"]
        self.pads = {name: encoder.special_tokens["pad"] for name, encoder in self.encoders.items()}
        self.pooled: dict[Ids, Tensor] = {}
        self.pools = {name: self._pools(name) for name in pools if name in names or pools != POOLS}
        self.pooled_width = sum(self.pools.values())
        self.fingerprint = encoder_fingerprint(clip)

    @property
    def cache_key(self) -> str:
        return f"{self.fingerprint} {encoding_key(self.clip)} {' '.join(self.encoders)}"

    def tokenize(self, text: str) -> Ids:
        return self.learned.tokenize(text, self._tokenize, self.eot_id)

    def _tokenize(self, text: str) -> Ids:
        check_literal(text)
        tokens = self.clip.tokenize(text, disable_weights=True)
        streams = {name: [tuple(token for token, _ in chunk) for chunk in tokens[name]] for name in self.encoders}
        if max(map(len, streams.values())) > 1:
            raise TokenError(f"'{text[:60]}' is longer than the {CHUNK - 2} tokens that fit in one prompt; shorten it.")
        first, *others = ((name, chunk) for name, (chunk,) in streams.items())
        for name, ids in others:
            if ids != self._in_stream(first[1], name):
                raise TokenError(
                    f"'{text[:60]}' is tokenised differently by CLIP-{first[0].upper()} and CLIP-{name.upper()}; "
                    "connect a CLIP whose encoders share a vocabulary."
                )
        return first[1]

    def _in_stream(self, ids: Ids, name: str) -> Ids:
        """The ids with the padding of another stream."""
        end = 1 + first_eot(ids, self.eot_id)
        return ids if len(self.encoders) == 1 else ids[:end] + (self.pads[name],) * (len(ids) - end)

    def _pools(self, name: str) -> int:
        """The width of the pooled vector of one encoder, or of the zeros that stand for it."""
        return len(self.encoders[name].transformer.text_projection.weight) if name in self.encoders else SD3_POOLS[name]

    def join_pooled(self, parts: Mapping[str, Tensor]) -> Tensor:  # (n, ...) by encoder -> (n, pooled_width)
        """The pooled vectors of all encoders side by side."""
        like = next(iter(parts.values()))
        return torch.cat([parts.get(name, like.new_zeros(len(like), width)) for name, width in self.pools.items()], 1)

    def load(self) -> torch.device:
        """Load the encoders on their device, with this CLIP's clip skip."""
        model = self.clip.cond_stage_model
        model.reset_clip_options()
        if self.clip.layer_idx is not None:
            model.set_clip_options({"layer": self.clip.layer_idx})
        device = self.clip.load_model().load_device
        model.set_clip_options({"execution_device": device})
        return device

    def encode(self, rows: Sequence[Ids], length: int) -> Tensor:  # (n, length, d) float32, CPU
        device, embeddings, parts = self.load(), [], {}
        with device_context(device):
            for name, encoder in self.encoders.items():
                # CLIPTextModel adds its whole position table to its input, whatever the length. For this call it
                # is given a shorter table; the module is not changed. Loading a merge puts another table in its place.
                table = {POSITIONS: encoder.get_parameter(POSITIONS)[:length]}
                chunks = [self.learned.placed(self._in_stream(ids, name)[:length], self.parts[name]) for ids in rows]
                z, pooled = torch.func.functional_call(encoder, table, (chunks,))[:2]
                embeddings.append(z.float().cpu())
                if name in self.pools:
                    parts[name] = pooled.float().cpu()
        if parts:
            # They are taken at the EoT, so a prompt that is cut before its EoT has none.
            ends = (first_eot(ids, self.eot_id) < length for ids in rows)
            self.pooled.update((ids, p) for ids, p, ended in zip(rows, self.join_pooled(parts), ends) if ended)
        return torch.cat(embeddings, -1)

    def encode_tree(self, tree: PrefixTree) -> Tensor:  # (n, d) float32, CPU
        device, embeddings, parts = self.load(), [], {}
        ends = {ids: first_eot(ids, self.eot_id) for ids in tree.paths}
        ended = [ids for ids, path in tree.paths.items() if ends[ids] < len(path)]
        for name, encoder in self.encoders.items():
            tokens = list(tree.tokens)
            for ids, path in tree.paths.items():
                for index, token in zip(path, self._in_stream(ids, name)):
                    tokens[index] = token
            z, last = encode_tree(encoder, tree, self.learned.placed(tokens, self.parts[name]), device)
            embeddings.append(z)
            if name in self.pools:
                at_end = last[[tree.paths[ids][ends[ids]] for ids in ended]]
                if encoder.return_projected_pooled:
                    at_end = encoder.transformer.text_projection(at_end.to(device)).float().cpu()
                parts[name] = at_end
        if parts:
            self.pooled.update(zip(ended, self.join_pooled(parts)))
        return torch.cat(embeddings, -1)

    def pool(self, rows: Sequence[Ids]) -> Tensor:  # (n, p) float32, CPU
        """The pooled vector of every row."""
        missing = [ids for ids in dict.fromkeys(rows) if ids not in self.pooled]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            self.encode(batch, 1 + max(first_eot(ids, self.eot_id) for ids in batch))
        return torch.stack([self.pooled[ids] for ids in rows])


class NormedEncoder:
    """A text encoder followed by the first norm of a model. Maps are fitted after that norm."""

    layers = 1

    def __init__(self, encoder: TextEncoder, norm: Norm):
        self.encoder = encoder
        self.norm = norm
        self.tokenize, self.length, self.locate = encoder.tokenize, encoder.length, encoder.locate
        self.width = encoder.width
        self.fingerprint = _behind_norm(encoder.fingerprint, norm)
        self.cache_key = _behind_norm(encoder.cache_key, norm)

    def encode(self, rows: Sequence[Ids], length: int) -> Tensor:  # (n, length, d) float32, CPU
        return self.norm(self.encoder.encode(rows, length))


def _behind_norm(fingerprint: str, norm: Norm) -> str:
    return hashlib.sha256(f"{fingerprint} {norm.fingerprint}".encode()).hexdigest()


def _clip(model, name: str) -> Any:
    """One of the CLIP text encoders of a cond_stage_model, or None."""
    return getattr(model, f"clip_{name}", None)


def without_t5(clip) -> bool:
    """Whether a CLIP of SD3 was loaded without its T5."""
    return getattr(clip.cond_stage_model, "t5xxl", clip) is None


def sd3_clips(clip) -> tuple[str, ...]:
    """Which of the two CLIPs of SD3 were loaded."""
    return tuple(name for name in SD3_POOLS if _clip(clip.cond_stage_model, name) is not None)


def clip_streams(clip) -> list[str]:
    """The token streams that a CLIP encoder of its own reads. The refiner's tokenizer gives more streams than that."""
    streams = clip.tokenize("")
    return [name for name in ORDER if name in streams and _clip(clip.cond_stage_model, name)]


def text_fingerprint(clip, readers: TextReaders) -> str:
    """Fingerprint of the CLIP together with the first norm of MODEL, as stored in a delta."""
    norm = readers.streams[CONTEXT].norm if CONTEXT in readers.streams else None
    fingerprint = encoder_fingerprint(clip)
    return _behind_norm(fingerprint, norm) if norm else fingerprint


def text_encoders(clip, readers: TextReaders, learned: LearnedWords = NO_WORDS) -> dict[str, TextEncoder]:
    """The encoder of every kind of text that MODEL reads, by kind. Raises HostError for what CLIP lacks.

    learned: words that prompts may have where the only encoders are CLIPs.
    """
    rows_alone = readers.row.clip_rows and without_t5(clip)
    if rows_alone:
        main = ClipEncoder(clip, sd3_clips(clip), learned, tuple(SD3_POOLS))
    elif clip.tokenize("").keys() <= CLIPS:
        main = ClipEncoder(clip, learned=learned)
    else:
        main = SequenceEncoder(clip, readers.row.sequence)
    encoders: dict[str, TextEncoder] = {CONTEXT: main}
    if POOLED in readers.streams:
        encoders[POOLED] = Pooled(main)
    if readers.row.clip_rows and not rows_alone:
        encoders[CLIP_ROWS] = ClipEncoder(clip, ("l", "g"))
    if LLAMA in readers.streams:
        encoders[LLAMA] = LlamaEncoder(clip, LLAMA, readers.streams[LLAMA].layers)
    for kind, stream in readers.streams.items():
        if stream.width != encoders[kind].width:
            raise HostError(
                f"The connected 'model' reads {kind} text of width {stream.width} and the connected 'clip' gives width "
                f"{encoders[kind].width}; connect the CLIP of the same checkpoint."
            )
        if stream.norm:
            encoders[kind] = NormedEncoder(encoders[kind], stream.norm)
    if main.width > MAX_WIDTH:
        raise HostError(
            f"The connected 'clip' gives text of width {main.width}, more than the {MAX_WIDTH} that a map is solved "
            "for; connect a model with a smaller text encoder."
        )
    return encoders


def nearness_encoder(clip) -> TextEncoder:
    """The encoder that measures how similar two texts are: CLIP if there is one, because it was trained for that."""
    clips = clip_streams(clip)
    return ClipEncoder(clip, clips) if clips else SequenceEncoder(clip)
