"""Weights from and for other programs: published erased models, and files that diffusers reads."""

from __future__ import annotations

import folder_paths
import torch
from safetensors.torch import save
from torch import Tensor

from ...trce_ops.delta.file import ErasedDelta
from ...trce_ops.files.names import portable_name
from ...trce_ops.files.weight_files import differences, match, open_weights
from ...trce_ops.progress import Progress, StepProgress
from .apply import add_patches
from .errors import HostError
from .folders import WEIGHTS_FOLDER, write_numbered
from .text_weights import changed_weights
from .weight_names import diffusers_names, file_names
from .weights import ModelWeights


def import_weights(model, name: str, strength: float, progress: Progress):
    """A clone of MODEL with the weights of a file in models/diffusion_models, the changes, and how many it holds.

    The changes, by parameter, are relative to the weights of MODEL without patches, so LoRAs on it stay. Raises
    HostError and WeightFileError.
    """
    weights = ModelWeights(model)
    with open_weights(folder_paths.get_full_path_or_raise(WEIGHTS_FOLDER, name)) as file:
        found = match(file.shapes, file_names(model), weights.shapes())
        changes = dict(differences(file, found, weights.base, progress))
    patched = model.clone()
    if strength and changes:
        add_patches(patched, {key: ("diff", (dW,)) for key, dW in changes.items()}, strength)
    return patched, changes, len(found)


LARGE = 0.5  # share of the weights from which on the report asks whether this is an erasure; by judgement

# Share from which on a change of nearly everything is suspected to be between checkpoints, also by judgement: less
# where cross-attention differs too, which methods that train everything else (ESD-u) leave alone.
SUSPECT, SUSPECT_WITH_TEXT = 0.1, 0.03


def share_of(model, changes: dict[str, Tensor]) -> float:
    """How large the changes are, of the weights that they change; 0 without any."""
    if not changes:
        return 0.0
    weights = ModelWeights(model)
    sizes = [(dW.float().norm().item(), weights.base(key).float().norm().item()) for key, dW in changes.items()]
    change, whole = (sum(size**2 for size in column) ** 0.5 for column in zip(*sizes))
    return change / max(whole, 1e-12)


def from_another_checkpoint(model, changes: dict[str, Tensor], total: int, share: float) -> bool:
    """Whether 9 in 10 weights of a file differ from MODEL's by much, norms among them, which few methods change."""
    modules = (model.model.get_submodule(key.rpartition(".")[0]) for key in changes)
    if len(changes) < 0.9 * total or not any("Norm" in type(module).__name__ for module in modules):
        return False
    return share > (SUSPECT_WITH_TEXT if any("attn2" in key for key in changes) else SUSPECT)


def what_differs(model, share: float) -> str:
    """How large the changes are, as a share of the weights, and what a file cannot tell."""
    rounded = (
        " Differences that the model's own precision rounds away are not seen and not applied; load the model in fp16."
        if ModelWeights(model).rounds()
        else ""
    )
    if not share:
        return rounded
    says = f" The changes are {share:.1%} of these weights.{rounded}"
    if share > LARGE:
        says += (
            " That is much for an erasure: the file may hold differences in the place of weights, or another model's."
        )
    return says


def lora_of(changes: dict[str, Tensor]) -> dict[str, Tensor]:
    """The changes as LORA_MODEL in ComfyUI's spelling, whole: weights as .diff, biases as .diff_b."""
    lora = {}
    for key, dW in changes.items():
        module, _, kind = key.rpartition(".")
        lora[{"weight": f"{module}.diff", "bias": f"{module}.diff_b"}.get(kind, f"{key}.diff")] = dW
    return lora


def write_diffusers(model, delta: ErasedDelta, prefix: str, progress: StepProgress) -> str:
    """Save the changed weights alone, under diffusers' names and in MODEL's types (fp16 for fp8, fp32 for GGUF), and
    return the name of the file.

    The file goes into the output folder. Raises HostError and FileNameError.
    """
    portable_name(prefix)  # before the work is done
    names = {key: name for name, key in diffusers_names(model).items()}
    weights, tensors = ModelWeights(model), {}
    for key, W, changed, done, total in changed_weights(model, delta):
        progress("Projections", done, total)
        dtype = weights.base(key).dtype
        dtype = dtype if dtype.itemsize > 1 else torch.float16  # eight bits would round most of an erasure away
        new = changed.to(dtype)
        if not torch.equal(new, W.to(dtype)):
            tensors[names[key]] = new.cpu().contiguous()
    if not tensors:
        raise HostError("The delta changes no weight of the connected 'model'; connect a delta that erases something.")
    return write_numbered(prefix, folder_paths.get_output_directory(), save(tensors, metadata={"format": "pt"}))
