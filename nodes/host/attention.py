"""How much the picture attends to some words, seen from ComfyUI's own attention calls."""

from __future__ import annotations

from collections.abc import Callable

import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor
from torch.nn.functional import pad


def with_gradient(_: Callable, *args, **kwargs) -> Tensor:
    """An `optimized_attention_override`: some faster attention functions have no gradient; this one always has."""
    return attention_pytorch(*args, **kwargs)


class Watch:
    """An `optimized_attention_override` that also notes the attention paid to marked text tokens.

    Joint attention has the tokens of the text first, then those of the picture. What a token pays to the marked ones is
    what attention gives it when their values are 1 and all others 0, so no map of all tokens to all is in memory.
    Blocks that are computed again do the same again, but nothing is noted then: what was noted has its gradient.
    """

    def __init__(self, marks: Tensor):  # (n, L)
        self.marks = marks
        self.seen: list[Tensor] = []  # (n, tokens) each
        self.watching = True

    def fit(self, length: int) -> None:
        """The text reaches the network with this many tokens: Flux.2 has padding before it."""
        self.marks = pad(self.marks, (length - self.marks.shape[1], 0))

    def __call__(self, _: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *args, **kwargs) -> Tensor:
        """q, k: (n, tokens, heads * width), or (n, heads, tokens, width) with skip_reshape."""
        length, tokens = self.marks.shape[1], k.shape[-2]
        if tokens > length:  # otherwise it is the text's with itself
            marks = pad(self.marks, (0, tokens - length)).to(v)
            values = (marks[:, None, :, None] if k.ndim == 4 else marks[:, :, None]).expand_as(k)
            values = values.contiguous()  # or fast kernels refuse them, and the map is made after all
            paid = attention_pytorch(q, k, values, heads, *args, **kwargs)[:, length:].float().mean(-1)
            if self.watching:
                self.seen.append(paid)
        return attention_pytorch(q, k, v, heads, *args, **kwargs)

    def end(self) -> Tensor:  # (n, N)
        """Stop recording, and return the mean over all joint attentions. These are the longest: SD3.5 has others, of
        the picture with itself."""
        seen, self.seen, self.watching = self.seen, [], False
        longest = max(paid.shape[1] for paid in seen)
        return torch.stack([paid for paid in seen if paid.shape[1] == longest]).mean(0)
