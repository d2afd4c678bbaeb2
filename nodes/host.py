"""The adapter: what this pack knows of ComfyUI's classes stands here, and in denoiser.py and fingerprint.py beside it.

It lends trce_ops a text encoder, finds the projections that read the text, puts a delta on them, and knows the folders,
the progress bar and the cancel button.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import shorten
from time import perf_counter

import comfy.clip_model
import comfy.model_management
import comfy.supported_models
import comfy.utils
import folder_paths
import torch
from comfy.weight_adapter.base import WeightAdapterBase
from comfy.weight_adapter.lora import LoRAAdapter
from server import PromptServer
from torch import Tensor

from ..trce_ops.delta import ErasedDelta, load_delta, save_delta
from ..trce_ops.embeddings import Ids
from ..trce_ops.prefixes import PrefixTree
from ..trce_ops.tokens import CHUNK, TokenError
from ..trce_ops.tuned import Tuned
from .fingerprint import base_digest, hash_patches
from .prefixes import encode_rows, encode_tree

DELTA_FOLDER = "erased_deltas"
FAMILIES = {"sd1": comfy.supported_models.SD15, "sd2": comfy.supported_models.SD20}


class HostError(ValueError):
    """A MODEL, CLIP or delta that does not fit the job, or the others."""


# Text encoder


class ClipEncoder:
    """A CLIP with one text encoder, as trce_ops.embeddings.TextEncoder; its LoRAs and clip skip are honoured.

    Text is taken literally: "(x:1.2)" is no weight. "embedding:name" is refused, for a delta has to be reproducible
    from the words it names.
    """

    def __init__(self, clip):
        model = clip.cond_stage_model
        self.clip = clip
        self.encoder = getattr(model, getattr(model, "clip", ""), None)
        transformer = getattr(self.encoder, "transformer", None)
        if not isinstance(transformer, comfy.clip_model.CLIPTextModel):
            raise HostError(
                f"The connected 'clip' is a {type(model).__name__}; connect the CLIP of an SD1.x or SD2.x checkpoint."
            )
        self.eot_id = self.encoder.special_tokens["end"]
        self.width = transformer.text_model.embeddings.position_embedding.weight.shape[1]
        self.fingerprint = self._fingerprint()

    def tokenize(self, text: str) -> Ids:
        if re.search(r"(^|\s)embedding:", text):
            raise TokenError(f"'{shorten(text, 60)}' names a textual inversion ('embedding:'); write words instead.")
        (chunks,) = self.clip.tokenize(text, disable_weights=True).values()
        if len(chunks) > 1:
            raise TokenError(
                f"'{shorten(text, 60)}' is longer than the {CHUNK - 2} tokens that fit in one prompt; shorten it."
            )
        return tuple(token for token, _ in chunks[0])

    def _load(self) -> torch.device:
        """Put the encoder where it runs, with the clip skip of this CLIP."""
        model = self.clip.cond_stage_model
        model.reset_clip_options()
        if self.clip.layer_idx is not None:
            model.set_clip_options({"layer": self.clip.layer_idx})
        device = self.clip.load_model().load_device
        model.set_clip_options({"execution_device": device})
        return device

    def encode(self, rows: Sequence[Ids], length: int) -> Tensor:  # (n, length, d) float32, CPU
        return encode_rows(self.encoder, rows, length, self._load())

    def encode_tree(self, tree: PrefixTree) -> Tensor:  # (n, d) float32, CPU
        return encode_tree(self.encoder, tree, self._load())

    def _fingerprint(self) -> str:
        """Equal for CLIPs that give the same embeddings: same base weights, same patches on them, same clip skip.

        It does not depend on the device, nor on loading in fp16 or fp32.
        """
        # These two do not reach cross-attention, and a checkpoint that lacks them leaves them uninitialised.
        digest = hashlib.sha256(base_digest(self.clip.patcher, ("text_projection.weight", "logit_scale")))
        default, default_layer, _ = self.encoder.options_default
        layer = self.clip.layer_idx or (-1 if default == "last" else default_layer)
        layer = layer if abs(layer) <= self.encoder.num_layers else -1  # as ComfyUI does
        digest.update(str(layer).encode())
        hash_patches(digest, self.clip.patcher)
        return digest.hexdigest()


# Diffusion model


@dataclass(frozen=True)
class TextReaders:
    """The projections of a MODEL that read the text."""

    family: str
    width: int  # d of the embeddings they read
    keys: tuple[str, ...]  # weights of shape (out, d)


def find_text_readers(model) -> TextReaders:
    """The cross-attention key and value projections. Raises HostError for a MODEL whose text also goes elsewhere."""
    config = model.model.model_config
    family = next((name for name, kind in FAMILIES.items() if isinstance(config, kind)), None)
    widths = {}
    for name, block in model.model.named_modules() if family else ():
        if hasattr(block, "attn2"):
            # Upscalers switch self-attention off on some levels, whose attn1 then reads the text too.
            for attention in ("attn2", "attn1") if getattr(block, "disable_self_attn", False) else ("attn2",):
                for projection in ("to_k", "to_v"):
                    key = f"{name}.{attention}.{projection}.weight"
                    widths[key] = comfy.utils.get_attr(model.model, key).shape[1]
    if len(set(widths.values())) != 1:
        raise HostError(
            f"The connected 'model' is a {type(config).__name__} ({type(model.model).__name__}); "
            "connect an SD1.x or SD2.x model, the ones that TRCE erases in."
        )
    return TextReaders(family, min(widths.values()), tuple(widths))


def check_width(readers: TextReaders, encoder: ClipEncoder) -> None:
    """Raises HostError when MODEL does not read the embeddings of this CLIP."""
    if readers.width != encoder.width:
        raise HostError(
            f"The connected 'model' reads text of width {readers.width} and the connected 'clip' gives width "
            f"{encoder.width}; connect the CLIP of the same checkpoint."
        )


class ContextMapPatch(WeightAdapterBase):
    """W + strength * W D on any projection that reads the text; one object serves all of them.

    ComfyUI moves and copies the factors where it wants them (`weights`); no copy is kept on any device.
    """

    name = "trce_context_map"

    def __init__(self, loaded_keys, weights):  # the signature that ComfyUI rebuilds adapters with
        self.loaded_keys = loaded_keys
        self.weights = weights  # (D,) or (up, down)

    def calculate_weight(
        self,
        weight,
        key,
        strength,
        strength_model,
        offset,
        function,
        intermediate_dtype=torch.float32,
        original_weight=None,
    ):
        # Never below float32: large entries of D cancel in the product. The sum is rounded to the weight's type once.
        dtype = torch.promote_types(intermediate_dtype, torch.float32)
        shift = weight.to(dtype)
        for factor in self.weights:
            shift = shift @ comfy.model_management.cast_to_device(factor, weight.device, dtype)
        weight += function(strength * shift)
        return weight


def apply_delta(model, delta: ErasedDelta, strength: float):
    """A clone of MODEL with the delta on every projection that reads the text. Raises HostError when it does not fit.

    The patch goes after those already there: W is the weight with its LoRAs, and deltas compose in the order applied.
    """
    readers = find_text_readers(model)
    context_map, family = delta.context_map, delta.info.family
    if (family, context_map.width) != (readers.family, readers.width):
        raise HostError(
            f"The delta is for {family} models with text of width {context_map.width}; the connected 'model' is "
            f"{readers.family} with text of width {readers.width}. Connect the delta to a model of its own family."
        )
    tuned = _tuned_patches(model, delta.tuned)
    erased = model.clone()
    if strength and context_map.rank:
        _add(erased, dict.fromkeys(readers.keys, ContextMapPatch(set(), context_map.factors)), strength)
    if strength and tuned:
        _add(erased, tuned, strength)  # after the map: W + s W D + s dW
    return erased


def _add(model, patches: dict, strength: float) -> None:
    missed = set(patches) - set(model.add_patches(patches, strength))
    if missed:
        raise HostError(
            f"The connected 'model' does not take patches on {len(missed)} projections, such as {min(missed)}."
        )


def _tuned_patches(model, tuned: Tuned) -> dict:
    """dW of every tuned projection as ComfyUI's own patches. Raises HostError for one that MODEL does not have."""
    weights = dict(model.model.named_parameters()) if tuned else {}
    patches = {}
    for module, change in tuned.items():
        key = f"{module}.weight"
        if key not in weights or weights[key].shape != change.shape:
            found = f"of shape {tuple(weights[key].shape)}" if key in weights else "nothing"
            raise HostError(
                f"The delta tunes {module} of shape {change.shape}, where the connected 'model' has {found}. Connect "
                "the model that the delta was tuned on, or one of the same build."
            )
        if len(change.factors) == 1:
            patches[key] = ("diff", change.factors)
        else:
            patches[key] = LoRAAdapter(set(), (*change.factors, None, None, None, None))
    return patches


# Progress, cancel and text on the node


def node_progress(node_id: str | None) -> Callable[[str, int, int], None]:
    """A callback for trce_ops: moves the bar, writes the step and the time left on the node, raises on cancel."""
    bar = comfy.utils.ProgressBar(1)
    clock = {}  # when each total began to be worked on

    def progress(step: str, done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)
        phase = step.partition(",")[0], total
        began = clock.setdefault(phase, perf_counter())
        left = (perf_counter() - began) * (total - done) / done if done else 0
        show_text(node_id, f"{step}: {done} of {total}{_in_words(left)}")

    return progress


def _in_words(seconds: float) -> str:
    if seconds < 2:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    return f", {minutes} min {seconds} s left" if minutes else f", {seconds} s left"


def show_text(node_id: str | None, text: str) -> None:
    """Text below the node's widgets, where there is a server to show it."""
    server = getattr(PromptServer, "instance", None)
    if server and node_id:
        server.send_progress_text(text, node_id)


# Folders


def register_delta_folder() -> None:
    """Make models/erased_deltas known to ComfyUI, beside any that extra_model_paths.yaml names."""
    folder_paths.add_model_folder_path(DELTA_FOLDER, os.path.join(folder_paths.models_dir, DELTA_FOLDER))
    folder_paths.folder_names_and_paths[DELTA_FOLDER][1].add(".safetensors")


def cache_folder() -> str:
    """Where preserve moments and tunings are kept: not reachable over HTTP, safe to delete."""
    return folder_paths.get_system_user_directory("trce")


def delta_names() -> list[str]:
    return folder_paths.get_filename_list(DELTA_FOLDER)


def read_delta(name: str) -> ErasedDelta:
    return load_delta(folder_paths.get_full_path_or_raise(DELTA_FOLDER, name))


def delta_stamp(name: str) -> tuple[int, int]:
    """Changes whenever the file does."""
    stat = os.stat(folder_paths.get_full_path_or_raise(DELTA_FOLDER, name))
    return stat.st_mtime_ns, stat.st_size


def write_delta(delta: ErasedDelta, prefix: str) -> str:
    """Save under the next free number and return the name. Never leaves the deltas' folder, never overwrites."""
    if not os.path.basename(prefix).strip(". "):
        raise HostError(f"'filename_prefix' is '{prefix}', which names no file; write a name such as 'no-violence'.")
    folder = folder_paths.get_folder_paths(DELTA_FOLDER)[0]
    path, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, folder)
    file = f"{name}_{counter:05}_.safetensors"
    save_delta(delta, os.path.join(path, file))
    return os.path.join(subfolder, file)
