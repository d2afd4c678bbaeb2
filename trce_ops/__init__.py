"""TRCE concept erasure on torch and safetensors alone, without ComfyUI.

TRCE: Towards Reliable Malicious Concept Erasure in Text-to-Image Diffusion Models, ICCV 2025, arXiv 2503.07389.
A program brings a text encoder (text.embeddings.TextEncoder) and, for tuning, a denoiser
(tuning.trajectories.Denoiser); nodes/host does this for ComfyUI.

From the bottom up: files, text, delta, closed_form (stage 1), tuning (stage 2), then methods, attacks, lists and
evaluation, which build on all of these.
"""

from .closed_form.erase import EraseSettings, erase
from .delta.file import ErasedDelta, load_delta, save_delta
from .methods.registry import METHODS, erase_with
from .text.concepts import parse_concepts, parse_keep
from .text.embeddings import TextEncoder
from .tuning.settings import TuneSettings
from .tuning.trajectories import Denoiser
from .tuning.tune import TunableModel, tune_delta
from .version import __version__

__all__ = [
    "METHODS",
    "Denoiser",
    "EraseSettings",
    "ErasedDelta",
    "TextEncoder",
    "TunableModel",
    "TuneSettings",
    "__version__",
    "erase",
    "erase_with",
    "load_delta",
    "parse_concepts",
    "parse_keep",
    "save_delta",
    "tune_delta",
]
