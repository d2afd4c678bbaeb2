"""The adapter for other people's files: ComfyUI's names of weights and those of others, and weights with patches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import comfy.lora
import comfy.model_base
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import get_key_weight
from safetensors.torch import save
from torch import Tensor

from ..trce_ops.delta import ErasedDelta
from ..trce_ops.erase import StepProgress
from ..trce_ops.file_names import portable_name
from ..trce_ops.weight_files import difference, differences, match, open_weights
from .host import HostError, apply_delta, write_numbered

PREFIX = "diffusion_model."
WEIGHTS_FOLDER = "diffusion_models"

Progress = Callable[[int, int], None]


# Names


def diffusers_names(model) -> dict[str, str]:
    """Diffusers' names of a U-Net's parameters, ComfyUI's for each. Raises HostError for other architectures."""
    config = model.model.model_config
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    if not names:
        raise HostError(
            f"The connected 'model' is a {type(config).__name__}, which has no other spelling here; connect an SD1.x, "
            "SD2.x or SDXL model, or choose ComfyUI's spelling."
        )
    state = model.model.state_dict()
    return {name: PREFIX + key for name, key in names.items() if PREFIX + key in state}


def file_names(model) -> dict[str, str]:
    """Every spelling in which weights are published, and the parameter each means."""
    state = [key for key in model.model.state_dict() if key.startswith(PREFIX)]
    names = {prefix + key.removeprefix(PREFIX): key for key in state for prefix in (PREFIX, "model." + PREFIX)}
    if comfy.utils.unet_to_diffusers(model.model.model_config.unet_config):
        known = diffusers_names(model)
        names |= {prefix + name: key for name, key in known.items() for prefix in ("", "unet.")}
    return names


def portable_module(model) -> Callable[[str], str]:
    """kohya's spelling of a parameter's module, which other programs read too; HostError as diffusers_names.

    Underscores for dots, in diffusers' names, and for SDXL in those of the original checkpoint.
    """
    names = {key: name for name, key in diffusers_names(model).items()}
    if isinstance(model.model, comfy.model_base.SDXL):
        names = {key: key.removeprefix(PREFIX) for key in names}
    return lambda key: "lora_unet_" + names[key].removesuffix(".weight").replace(".", "_")


# Weights


def base_weights(model) -> Callable[[str], Tensor]:
    """The weights as they were loaded, without any patch, also while ComfyUI has patched ones in their place."""
    # ModelPatcher.get_key_patches would do, but stumbles over the scales and settings that quantised layers have.

    def base(key: str) -> Tensor:
        weight, _, dequantize = get_key_weight(model.model, key)
        if key in model.backup:
            weight = model.backup[key].weight
        if key in model.hook_backup:
            weight = model.hook_backup[key][0]
        return (dequantize(weight, inplace=False) if dequantize else weight).detach()

    return base


def changed_weights(model, delta: ErasedDelta) -> Iterator[tuple[str, Tensor, Tensor, int, int]]:
    """(parameter, W, W', done, in all), float64, for all that the delta changes: of MODEL with its LoRAs.

    Both come from ComfyUI's own way of putting patches on weights. Raises HostError for a delta that does not fit.
    """
    erased, base = apply_delta(model, delta, 1.0), base_weights(model)
    before = {key: model.patches.get(key, []) for key in erased.patches}
    added = {key: patches[len(before[key]) :] for key, patches in erased.patches.items()}
    added = {key: patches for key, patches in added.items() if patches}
    for done, (key, patches) in enumerate(added.items()):
        W = base(key).to("cpu", torch.float64, copy=True)
        W = comfy.lora.calculate_weight(before[key], W, key, torch.float64)
        yield key, W, comfy.lora.calculate_weight(patches, W.clone(), key, torch.float64), done, len(added)


def import_weights(model, name: str, strength: float, progress: Progress):
    """MODEL with the weights of a file in models/diffusion_models: its clone, and the changes by parameter.

    The change is to MODEL's own weights without LoRAs, which stay where they are. Raises HostError and
    WeightFileError.
    """
    path = folder_paths.get_full_path_or_raise(WEIGHTS_FOLDER, name)
    shapes = {key: tuple(weight.shape) for key, weight in model.model.state_dict().items()}
    with open_weights(path) as file:
        found = match(file.shapes, file_names(model), shapes)
        changes = dict(differences(file, found, base_weights(model), progress))
    patched = model.clone()
    if strength and changes:
        missed = changes.keys() - set(patched.add_patches({k: ("diff", (dW,)) for k, dW in changes.items()}, strength))
        if missed:
            raise HostError(f"The connected 'model' takes no patch on {len(missed)} weights, such as {min(missed)}.")
    return patched, changes, len(found)


def lora_of(changes: dict[str, Tensor]) -> dict[str, Tensor]:
    """The changes as LORA_MODEL in ComfyUI's spelling, whole: weights as .diff, biases as .diff_b."""
    lora = {}
    for key, dW in changes.items():
        module, _, kind = key.rpartition(".")
        lora[{"weight": f"{module}.diff", "bias": f"{module}.diff_b"}.get(kind, f"{key}.diff")] = dW
    return lora


def weight_file_names() -> list[str]:
    return folder_paths.get_filename_list(WEIGHTS_FOLDER)


def weight_file_stamp(name: str) -> tuple[int, int]:
    """Changes whenever the file does."""
    stat = os.stat(folder_paths.get_full_path_or_raise(WEIGHTS_FOLDER, name))
    return stat.st_mtime_ns, stat.st_size


def write_diffusers(model, delta: ErasedDelta, prefix: str, progress: StepProgress) -> str:
    """The edited weights alone, under diffusers' names, in the output folder; the name of the file comes back.

    In the type that MODEL's weights have. Raises HostError.
    """
    portable_name(prefix)  # before the work is done
    names = {key: name for name, key in diffusers_names(model).items()}
    base, tensors = base_weights(model), {}
    for key, W, changed, done, total in changed_weights(model, delta):
        progress("Projections", done, total)
        dtype = base(key).dtype
        if difference(changed.to(dtype), W.to(dtype)) is not None:
            tensors[names[key]] = changed.to("cpu", dtype).contiguous()
    if not tensors:
        raise HostError("The delta changes no weight of the connected 'model'; connect a delta that erases something.")
    return write_numbered(prefix, folder_paths.get_output_directory(), save(tensors, metadata={"format": "pt"}))
