"""Text encoders other than CLIP: T5 and language models.

None of their tokens summarises the sentence: T5 is bidirectional, and language models end prompts with tokens of a
template. So all tokens of a prompt except the keyword's have the role of the EoT, and the template before the prompt,
as far as the diffusion model is given it, has the role of the SoT.

Prompts are encoded one at a time through ComfyUI's own code, because encoders that cut off their template do so once
per call.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...trce_ops.text.tokens import Ids, Roles, TokenError, find_runs, non_empty
from .errors import HostError
from .fingerprint import encoder_fingerprint, encoding_key
from .literal import check_literal, escape

CLIPS = {"l", "g", "h"}  # token streams of CLIP, the way ComfyUI calls them
QUOTED = {"byt5"}  # streams that only get the words in quotation marks


class SequenceEncoder:
    """A CLIP input with a T5 or a language model, as trce_ops.text.embeddings.TextEncoder."""

    layers = 1

    def __init__(self, clip, stream: str = ""):
        self.clip = clip
        self.tokens: dict[Ids, dict] = {}  # all streams of every prompt seen, for other encoders beside this one
        self.pooled: dict[Ids, Tensor] = {}
        streams = clip.tokenize("").keys() - CLIPS - QUOTED
        self.stream = stream or next(iter(streams), "")
        if self.stream not in streams or len(streams) > 1 and not stream:
            raise HostError(
                f"The connected 'clip' is a {type(clip.cond_stage_model).__name__} with the streams "
                f"{', '.join(sorted(streams)) or 'none'}, and 'model' does not say which of them it reads; connect the "
                "CLIP that belongs to the model."
            )
        if getattr(clip.cond_stage_model, self.stream, self) is None:
            raise HostError(
                f"The connected 'clip' comes without its {self.stream} text encoder; load it with all encoders."
            )
        tokenizer = clip.tokenizer
        tokenizer = getattr(tokenizer, self.stream, None) or getattr(tokenizer, getattr(tokenizer, "clip", ""))
        self.pad = tokenizer.pad_token
        self.fingerprint = encoder_fingerprint(clip)
        # Every prompt begins and ends with what the empty one and another have in common.
        empty, other = self.tokenize(""), self.tokenize("x")
        a, b = (ids[slice(*self._attended(ids))] for ids in (empty, other))
        self.prefix = _in_common(a, b)
        self.suffix = _in_common(a[self.prefix :][::-1], b[self.prefix :][::-1])
        self.cut = 0  # tokens that the diffusion model does not get; negative: extra embeddings before the tokens
        out = self._encode(empty)
        self.cut = len(empty) - out.shape[0]
        self.width = out.shape[1]
        self.pooled_width = self.pooled[empty].shape[0] if empty in self.pooled else 0

    @property
    def cache_key(self) -> str:
        return f"{self.fingerprint} {encoding_key(self.clip)} {self.stream}"

    def tokenize(self, text: str) -> Ids:
        check_literal(text)
        tokens = self.clip.tokenize(escape(text))
        chunks = tokens[self.stream]
        if len(chunks) > 1:
            raise TokenError(f"'{text[:60]}' is longer than the {len(chunks[0])} tokens that fit; shorten it.")
        ids = tuple(token for token, *_ in chunks[0])
        self.tokens[ids] = tokens
        return ids

    def length(self, ids: Ids) -> int:
        return len(ids) - max(self.cut, 0)

    def locate(self, ids: Ids, keyword: str = "") -> Roles:
        start, end = self._attended(ids)
        first, last = start + self.prefix, end - self.suffix
        found = ()
        if keyword:  # tokenised differently at the beginning, behind a space, and behind a word
            ways = [non_empty(keyword, self._content(self.tokenize(text))) for text in (keyword, f" {keyword}")]
            ways.append(self._content(self.tokenize(f"a {keyword}"))[len(self._content(self.tokenize("a"))) :])
            found = tuple(first + i for i in find_runs(ids[first:last], *ways))
        # The template is cut first; a cut longer than it takes the last tokens of the prompt.
        offset = min(max(self.cut, 0), start + self.prefix)
        rows = self.length(ids)

        def place(positions: Sequence[int]) -> tuple[int, ...]:
            return tuple(p - offset for p in positions if 0 <= p - offset < rows)

        keywords, text = place(found), place(range(first, end))
        eot = text[-1] if text else rows - 1
        return Roles(
            keyword=keywords,
            first_eot=eot,
            pads=place([*range(start), *range(end, len(ids))]),
            others=tuple(p for p in text if p != eot and p not in keywords),
            sot=place(range(start, first)),
        )

    def encode(self, rows: Sequence[Ids], length: int) -> Tensor:  # (n, length, layers * d) float32, CPU
        z = torch.zeros(len(rows), length, self.layers * self.width)
        for row, ids in zip(z, rows):
            embeddings = self._encode(ids)[:length]
            row[: len(embeddings)] = embeddings
        return z

    def pool(self, rows: Sequence[Ids]) -> Tensor:  # (n, p) float32, CPU
        for ids in rows:
            if ids not in self.pooled:
                self._encode(ids)
        return torch.stack([self.pooled[ids] for ids in rows])

    def _encode(self, ids: Ids) -> Tensor:  # (length, d)
        cond, pooled = self.clip.encode_from_tokens(self.tokens[ids], return_pooled=True)
        if pooled is not None:
            self.pooled[ids] = pooled[0].float().cpu()
        before = max(-self.cut, 0)
        if self.cut and cond.shape[1] != self.length(ids) + before:
            raise HostError(
                f"The connected 'clip' gives {cond.shape[1]} embeddings for {len(ids)} tokens, which TRCE cannot match "
                "to the tokens; connect a CLIP in its original layout."
            )
        return cond[0, before:].float().cpu()

    def _attended(self, ids: Ids) -> tuple[int, int]:
        """The range of the tokens that are not padding, at least one token long."""
        real = [p for p, token in enumerate(ids) if token != self.pad] or [0]
        return real[0], real[-1] + 1

    def _content(self, ids: Ids) -> Ids:
        start, end = self._attended(ids)
        return ids[start + self.prefix : end - self.suffix]


class LlamaEncoder(SequenceEncoder):
    """The Llama of HiDream's CLIP. The model reads hidden states of many of its layers.

    Each layer is read by its own weights, but a delta has one map for all of them. Every layer that is read gives its
    pairs and its moment once, however many weights read it. Hidden states grow with depth, so the last layers would
    dominate. Each layer is therefore scaled to the size of CLIP's embeddings (about 1 in each dimension), which `ridge`
    is chosen for. T is linear, so it holds for the unscaled states too.
    """

    def __init__(self, clip, stream: str, layers: Sequence[int]):
        self.read = tuple(dict.fromkeys(layers))
        super().__init__(clip, stream)
        self.layers = len(self.read)
        self.width //= self.layers
        self.fingerprint = f"{self.fingerprint} {stream} {self.read}"
        ids = self.tokenize("a photo of a dog on a table")
        z = self._encode(ids)[slice(*self._attended(ids))].unflatten(-1, (self.layers, -1))
        # The median, because Llama's first token is a hundred times as long as the others.
        self.scale = 1 / z.square().mean(-1).sqrt().median(0).values.clamp_min(1e-6)  # (layers,)

    def encode(self, rows: Sequence[Ids], length: int) -> Tensor:  # (n, length, layers * d) float32, CPU
        return super().encode(rows, length) * self.scale.repeat_interleave(self.width)

    def _encode(self, ids: Ids) -> Tensor:  # (length, layers * d)
        states = self.clip.encode_from_tokens(self.tokens[ids], return_dict=True)["conditioning_llama3"][0]
        if max(self.read) >= len(states):
            raise HostError(
                f"The connected 'clip' gives {len(states)} layers of {self.stream} text and 'model' reads layer "
                f"{max(self.read)}; connect the CLIP that belongs to the model."
            )
        return states[list(self.read)].float().cpu().transpose(0, 1).flatten(1)


def _in_common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many of the first items are the same."""
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n
