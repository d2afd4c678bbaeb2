"""The adapter: the folders, the progress bar and the cancel button here, the rest of ComfyUI in modules beside it.

families.py and readers.py find the weights that read the text, encoders.py lends trce_ops a text encoder, patches.py
puts a delta on a MODEL, denoiser.py and fingerprint.py make one a function of its weights and tell them apart.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter

import comfy.model_management
import comfy.utils
import folder_paths
from server import PromptServer

from ..trce_ops import files
from ..trce_ops.delta import ErasedDelta, delta_bytes, load_delta
from ..trce_ops.file_names import portable_name
from .encoders import ClipEncoder, nearness_encoder, text_encoders, text_fingerprint
from .patches import ContextMapPatch, apply_delta
from .readers import POOLED, HostError, TextReaders, find_text_readers

__all__ = [
    "POOLED",
    "ClipEncoder",
    "ContextMapPatch",
    "HostError",
    "TextReaders",
    "apply_delta",
    "cache_folder",
    "delta_names",
    "delta_stamp",
    "find_text_readers",
    "nearness_encoder",
    "node_progress",
    "read_delta",
    "register_delta_folder",
    "show_text",
    "text_encoders",
    "text_fingerprint",
    "write_delta",
    "write_numbered",
]

DELTA_FOLDER = "erased_deltas"


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
    """Save in models/erased_deltas under the next free number and return the name."""
    return write_numbered(prefix, folder_paths.get_folder_paths(DELTA_FOLDER)[0], delta_bytes(delta))


def write_numbered(prefix: str, root: str, data: bytes) -> str:
    """Save below `root` as the widget `filename_prefix` says, under the next free number, and return the name.

    Never leaves the folder, never overwrites. Raises HostError and FileNameError; then nothing has been written.
    """
    prefix = portable_name(prefix)
    try:
        folder, name, number, subfolder, _ = folder_paths.get_save_image_path(prefix, root)
        return os.path.join(subfolder, files.write_numbered(folder, name, number, data))
    except OSError as error:
        raise HostError(
            f"Nothing was saved in {root}: {error.strerror or error}. Make room or allow writing there, or change "
            f"'filename_prefix' ({prefix!r})."
        ) from error
