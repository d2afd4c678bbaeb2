"""Names of weights: ComfyUI's, diffusers', and kohya's."""

from __future__ import annotations

from collections.abc import Callable

import comfy.lora
import comfy.model_base
import comfy.utils

from .errors import HostError
from .readers import PREFIX


def diffusers_names(model) -> dict[str, str]:
    """ComfyUI's name by diffusers' name of a U-Net's parameters. Raises HostError for other architectures."""
    config = model.model.model_config
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    if not names:
        raise HostError(
            f"The connected 'model' is a {type(config).__name__}, which has no names in diffusers here; connect an "
            "SD1.x, SD2.x or SDXL model, or keep ComfyUI's names: Save Erased Delta, or 'spelling' ComfyUI in Delta to "
            "LoRA."
        )
    state = model.model.state_dict()
    return {name: PREFIX + key for name, key in names.items() if PREFIX + key in state}


def file_names(model) -> dict[str, str]:
    """All names under which weights are published, and the parameter that each means."""
    state = [key for key in model.model.state_dict() if key.startswith(PREFIX)]
    names = {prefix + key.removeprefix(PREFIX): key for key in state for prefix in (PREFIX, "model." + PREFIX)}
    if comfy.utils.unet_to_diffusers(model.model.model_config.unet_config):
        known = diffusers_names(model)
        names |= {prefix + name: key for name, key in known.items() for prefix in ("", "unet.")}
    return names


def portable_module(model) -> Callable[[str], str]:
    """kohya's name of a parameter's module, which other programs read too. Raises HostError like diffusers_names.

    Diffusers' names, for SDXL those of the original checkpoint, with underscores instead of dots.
    """
    names = {key: name for name, key in diffusers_names(model).items()}
    if isinstance(model.model, comfy.model_base.SDXL):
        names = {key: key.removeprefix(PREFIX) for key in names}
    return lambda key: "lora_unet_" + names[key].removesuffix(".weight").replace(".", "_")
