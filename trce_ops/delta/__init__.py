"""The erased delta: an erasure as low-rank matrices, as a file to share, and as a LoRA."""

from .file import DeltaError as DeltaError
from .file import ErasedDelta as ErasedDelta
from .file import load_delta as load_delta
from .file import save_delta as save_delta
