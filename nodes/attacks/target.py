"""The MODEL under attack with its pictures and texts, and the steps that all probes share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter

import torch
from torch import Tensor

from ...trce_ops.attacks.evidence import Evidence, ProbeError, denoising_loss
from ...trce_ops.progress import StepProgress
from ...trce_ops.tuning.text_batch import Texts
from ..host.denoiser import HostDenoiser, check_differentiable, open_denoiser
from ..host.dynamic_vram import check_file
from ..host.encoders import text_encoders
from ..host.pictures import as_latents
from ..host.readers import POOLED
from ..host.soft_prompts import HostSoftEncoder, open_encoder

REMEDY = "connect a model of these families"


class Target:
    """The MODEL under attack, the unedited MODEL if there is one, and the pictures as plain tensors.

    Only one of the two models is open at a time, so that SDXL is not in memory twice.
    """

    def __init__(self, model, clip, pictures: dict | None, unedited, progress: StepProgress):
        self.model, self.clip, self.unedited, self.progress = model, clip, unedited, progress
        self.has_pictures = pictures is not None
        readers = check_differentiable(model, "probing", REMEDY)
        if unedited is not None:
            check_differentiable(unedited, "probing", REMEDY, "unedited_model")
        self.pools = POOLED in readers.streams
        text_encoders(clip, readers)  # raises when the CLIP does not fit
        check_file(clip.patcher, "clip")
        if pictures is not None:
            self.pictures, self.size = as_latents(model, pictures)
        self._opened = ExitStack()  # closes the model that is open
        self._open: tuple[object, HostDenoiser] | None = None  # the MODEL that is open, and what it is open as
        self.began = perf_counter()

    @contextmanager
    def open_text(self) -> Iterator[HostSoftEncoder]:
        """The text encoder, differentiable. A model is opened when it is asked for, and closed in the end."""
        with open_encoder(self.clip, self.pools) as encoder, self._opened:
            yield encoder

    @contextmanager
    def open(self, black_box: bool = False) -> Iterator[tuple[HostDenoiser, HostSoftEncoder]]:
        """The model to learn on and the text encoder, both differentiable.

        That model is the attacked one, or the unedited one, which is all that a black-box attack has. It is closed when
        another one is asked for.
        """
        if black_box and self.unedited is None:
            raise ProbeError("'black_box' learns on the model before the erasure; connect it to 'unedited_model'.")
        with self.open_text() as encoder:
            yield self._enter(self.unedited if black_box else self.model), encoder

    def _enter(self, model) -> HostDenoiser:
        """The model, open, and no other one."""
        if self._open is None or self._open[0] is not model:
            self._opened.close()
            self._open = None
            self._open = model, self._opened.enter_context(open_denoiser(model, *self.size))
        return self._open[1]

    def attacked(self) -> HostDenoiser:
        """The attacked model. Closes the unedited one."""
        return self._enter(self.model)

    def losses(self, denoise: HostDenoiser, texts: list[Texts], seed: int, pictures: Tensor | None = None) -> list:
        pictures = self.pictures if pictures is None else pictures
        found = []
        for number, text in enumerate(texts):
            self.progress("Denoising loss", number, len(texts))
            found.append(denoising_loss(denoise, pictures, text, denoise.at_once, seed))
        return found

    def evidence(self, encoder, prompt: str, attack: Texts, seed: int) -> Evidence:
        """The losses for the empty prompt, the prompt and the attack, and before the erasure."""
        empty, plain = encode(encoder, ""), encode(encoder, prompt)
        found = self.losses(self.attacked(), [empty, plain, attack], seed)
        return Evidence(*found, unedited=self.before([empty, plain], seed))

    def before(self, texts: list[Texts], seed: int, pictures: Tensor | None = None) -> list[Tensor]:
        """The losses of the unedited model, if there is one. Closes the attacked model."""
        return [] if self.unedited is None else self.losses(self._enter(self.unedited), texts, seed, pictures)

    def cost(self, what: str, queries: int) -> str:
        return f"{what}: {queries} evaluations of the model, {perf_counter() - self.began:.1f} s."


def encode(encoder: HostSoftEncoder, text: str) -> Texts:
    with torch.no_grad():
        return encoder.encode([encoder.tokenize(text)])


def conditioning(texts: Texts) -> list:
    """Conditioning in the format of CLIP Text Encode."""
    options = {} if texts.pooled is None else {"pooled_output": texts.pooled.detach().cpu()}
    return [[texts.sequence.detach().cpu(), options]]


def one_line(prompt: str) -> str:
    prompt = " ".join(prompt.split())
    if not prompt:
        raise ProbeError("'prompt' is empty; write what the pictures show, such as 'a photo of a cigarette'.")
    return prompt
