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
from ..host.denoiser import HostDenoiser, check_differentiable, downscale, open_denoiser
from ..host.encoders import text_encoders
from ..host.readers import POOLED
from ..host.soft_prompts import HostSoftEncoder, open_encoder

ROWS = 4  # pictures that go through the model at a time
REMEDY = "connect a model of these families"
LATENT = "samples"


class Target:
    """The MODEL under attack, the unedited MODEL if there is one, and the pictures as plain tensors.

    Only one of the two models is open at a time, so that SDXL is not in memory twice.
    """

    def __init__(self, model, clip, pictures: dict | None, unedited, progress: StepProgress):
        self.model, self.clip, self.unedited, self.progress = model, clip, unedited, progress
        self.has_pictures = pictures is not None
        readers = check_differentiable(model, "probing", REMEDY)
        if unedited is not None:
            check_differentiable(unedited, "probing", REMEDY)
        self.pools = POOLED in readers.streams
        text_encoders(clip, readers)  # raises when the CLIP does not fit
        channels = model.model.latent_format.latent_channels
        latents = torch.zeros(1, channels, 64, 64) if pictures is None else pictures[LATENT]
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise ProbeError(
                f"'pictures' are latents of shape {tuple(latents.shape)}; connect the latents of pictures that this "
                "kind of model draws."
            )
        height, width = (downscale(model) * side for side in latents.shape[-2:])
        self.size = width, height
        self._attacked = ExitStack()  # closes the attacked model
        # clone: tensors made in inference mode cannot take part in a graph
        with torch.inference_mode(False):
            self.pictures = model.model.process_latent_in(latents.float().cpu().clone())
        self.began = perf_counter()

    @contextmanager
    def open(self) -> Iterator[tuple[HostDenoiser, HostSoftEncoder]]:
        """The attacked model and its text encoder, differentiable. The model is closed when `before` is called."""
        with open_encoder(self.clip, self.pools) as encoder, self._attacked:
            yield self._attacked.enter_context(open_denoiser(self.model, *self.size)), encoder

    def losses(self, denoise: HostDenoiser, texts: list[Texts], seed: int, pictures: Tensor | None = None) -> list:
        pictures = self.pictures if pictures is None else pictures
        found = []
        for number, text in enumerate(texts):
            self.progress("Denoising loss", number, len(texts))
            found.append(denoising_loss(denoise, pictures, text, ROWS, seed))
        return found

    def evidence(self, denoise, encoder, prompt: str, attack: Texts, seed: int) -> Evidence:
        """The losses for the empty prompt, the prompt and the attack, and before the erasure. Closes the model."""
        empty, plain = encode(encoder, ""), encode(encoder, prompt)
        found = self.losses(denoise, [empty, plain, attack], seed)
        return Evidence(*found, unedited=self.before([empty, plain], seed))

    def before(self, texts: list[Texts], seed: int, pictures: Tensor | None = None) -> list[Tensor]:
        """The losses of the unedited model, if there is one. Closes the attacked model."""
        if self.unedited is None:
            return []
        self._attacked.close()
        with open_denoiser(self.unedited, *self.size) as denoise:
            return self.losses(denoise, texts, seed, pictures)

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
