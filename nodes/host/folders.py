"""Folders that the pack reads and writes: models/erased_deltas, models/diffusion_models, the output folder, a cache."""

from __future__ import annotations

import os
from itertools import chain

import folder_paths
import yaml
from comfy.cli_args import args

from ...trce_ops.delta.file import ErasedDelta, delta_bytes, load_delta
from ...trce_ops.files import atomic as files
from ...trce_ops.files.names import portable_name
from .errors import HostError

DELTA_FOLDER, WEIGHTS_FOLDER = "erased_deltas", "diffusion_models"  # as folder_paths names them


def register_delta_folder() -> None:
    """Make models/erased_deltas known to ComfyUI. Deltas are saved there, unless extra_model_paths.yaml names another
    folder with is_default."""
    folder = os.path.join(folder_paths.models_dir, DELTA_FOLDER)
    folder_paths.add_model_folder_path(DELTA_FOLDER, folder, is_default=not _has_default_folder())
    folder_paths.folder_names_and_paths[DELTA_FOLDER][1].add(".safetensors")


def _has_default_folder() -> bool:
    """Whether a file of extra paths names a default folder for deltas. ComfyUI only knows the paths."""
    comfyui = os.path.dirname(os.path.realpath(str(folder_paths.__file__)))
    for path in (
        os.path.join(comfyui, "extra_model_paths.yaml"),
        *chain.from_iterable(args.extra_model_paths_config or ()),
    ):
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                sections = (yaml.safe_load(file) or {}).values()
            if any(section and section.get("is_default") and DELTA_FOLDER in section for section in sections):
                return True
    return False


def cache_folder() -> str:
    """Where preserve moments and tunings are cached: not reachable over HTTP, safe to delete."""
    return folder_paths.get_system_user_directory("trce")


def file_names(folder: str) -> list[str]:
    return folder_paths.get_filename_list(folder)


def file_stamp(folder: str, name: str) -> tuple[int, int]:
    """Changes whenever the file does."""
    stat = os.stat(folder_paths.get_full_path_or_raise(folder, name))
    return stat.st_mtime_ns, stat.st_size


def read_delta(name: str) -> ErasedDelta:
    return load_delta(folder_paths.get_full_path_or_raise(DELTA_FOLDER, name))


def write_delta(delta: ErasedDelta, prefix: str) -> str:
    """Save in models/erased_deltas under the next free number and return the name."""
    return write_numbered(prefix, folder_paths.get_folder_paths(DELTA_FOLDER)[0], delta_bytes(delta))


def write_numbered(prefix: str, root: str, data: bytes) -> str:
    """Save in `root` under the name in `filename_prefix` and the next free number, and return the name.

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
