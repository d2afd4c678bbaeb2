"""TRCE concept erasure on torch and safetensors alone, without ComfyUI.

TRCE: Towards Reliable Malicious Concept Erasure in Text-to-Image Diffusion Models, ICCV 2025, arXiv 2503.07389.
A program brings a text encoder (text.embeddings.TextEncoder) and, for tuning, a denoiser
(tuning.trajectories.Denoiser); nodes/host does this for ComfyUI.

From the bottom up: files, text, delta, closed_form (stage 1), tuning (stage 2), then methods, attacks, lists and
evaluation, which build on all of these.
"""

from .closed_form.erase import EraseSettings as EraseSettings
from .closed_form.erase import erase as erase
from .delta.file import ErasedDelta as ErasedDelta
from .delta.file import load_delta as load_delta
from .delta.file import save_delta as save_delta
from .methods.registry import METHODS as METHODS
from .methods.registry import erase_with as erase_with
from .text.concepts import parse_concepts as parse_concepts
from .text.concepts import parse_keep as parse_keep
from .text.embeddings import TextEncoder as TextEncoder
from .tuning.settings import TuneSettings as TuneSettings
from .tuning.trajectories import Denoiser as Denoiser
from .tuning.tune import TunableModel as TunableModel
from .tuning.tune import tune_delta as tune_delta
from .version import __version__ as __version__
