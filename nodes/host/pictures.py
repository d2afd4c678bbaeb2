"""Pictures as the model sees them, from LATENT or IMAGE."""

from __future__ import annotations

import torch
from torch import Tensor

from .denoiser import pixels_per_latent
from .errors import HostError

SAMPLES = "samples"  # where LATENT has its tensor


def as_latents(model, pictures, vae=None) -> tuple[Tensor, tuple[int, int]]:
    """The pictures (m, c, h, w) float32 on the CPU, and their width and height in pixels.

    pictures: LATENT, or IMAGE (m, H, W, 3), which needs the VAE. Raises HostError for what MODEL does not draw.
    """
    channels, ratio = model.model.latent_format.latent_channels, pixels_per_latent(model)
    if isinstance(pictures, dict):
        latents = pictures[SAMPLES]
    elif vae is None:
        raise HostError("'pictures' are images; connect the VAE of the same checkpoint to 'vae' as well.")
    else:
        height, width = (side // ratio * ratio for side in pictures.shape[1:3])
        if not height or not width:
            raise HostError(f"'pictures' are images of {tuple(pictures.shape[1:3])} pixels, which are too small.")
        latents = vae.encode(pictures[:, :height, :width, :3])
    if latents.ndim != 4 or latents.shape[1] != channels or not len(latents):
        raise HostError(
            f"'pictures' are latents of shape {tuple(latents.shape)}; connect the latents of pictures that this "
            "kind of model draws."
        )
    if not torch.isfinite(latents).all():
        raise HostError("'pictures' hold NaN or Inf; encode them with another VAE, or in fp32.")
    # clone: tensors made in inference mode cannot take part in a graph
    with torch.inference_mode(False):
        latents = model.model.process_latent_in(latents.float().cpu().clone())
    height, width = (ratio * side for side in latents.shape[-2:])
    return latents, (width, height)
