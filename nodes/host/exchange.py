"""Weights from and for other programs: published erased models, and files that diffusers reads."""

from __future__ import annotations

import os

import folder_paths
from safetensors.torch import save
from torch import Tensor

from ...trce_ops.delta.file import ErasedDelta
from ...trce_ops.files.names import portable_name
from ...trce_ops.files.weight_files import difference, differences, match, open_weights
from ...trce_ops.progress import Progress, StepProgress
from .errors import HostError
from .folders import write_numbered
from .weight_names import diffusers_names, file_names
from .weights import ModelWeights, changed_weights

WEIGHTS_FOLDER = "diffusion_models"


def import_weights(model, name: str, strength: float, progress: Progress):
    """MODEL with the weights of a file in models/diffusion_models: its clone, and the changes by parameter.

    The change is to MODEL's own weights without LoRAs, which stay where they are. Raises HostError and
    WeightFileError.
    """
    path = folder_paths.get_full_path_or_raise(WEIGHTS_FOLDER, name)
    weights = ModelWeights(model)
    with open_weights(path) as file:
        found = match(file.shapes, file_names(model), weights.shapes())
        changes = dict(differences(file, found, weights.base, progress))
    patched = model.clone()
    if strength and changes:
        missed = changes.keys() - set(patched.add_patches({k: ("diff", (dW,)) for k, dW in changes.items()}, strength))
        if missed:
            raise HostError(f"The connected 'model' takes no patch on {len(missed)} weights, such as {min(missed)}.")
    return patched, changes, len(found)


def from_another_checkpoint(model, changes: dict[str, Tensor], total: int) -> bool:
    """Whether all weights of a file differ from MODEL's, norms among them, which methods of erasing leave alone."""
    modules = (model.model.get_submodule(key.rpartition(".")[0]) for key in changes)
    return len(changes) == total and any("Norm" in type(module).__name__ for module in modules)


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
    weights, tensors = ModelWeights(model), {}
    for key, W, changed, done, total in changed_weights(model, delta):
        progress("Projections", done, total)
        dtype = weights.base(key).dtype
        if difference(changed.to(dtype), W.to(dtype)) is not None:
            tensors[names[key]] = changed.to("cpu", dtype).contiguous()
    if not tensors:
        raise HostError("The delta changes no weight of the connected 'model'; connect a delta that erases something.")
    return write_numbered(prefix, folder_paths.get_output_directory(), save(tensors, metadata={"format": "pt"}))
