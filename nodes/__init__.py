"""The node faces: schemas, tooltips, and the adapters that know ComfyUI (host.py and those beside it)."""

from .concepts import TRCEEraseConcepts, TRCEKeepConcepts
from .delta import TRCEApplyDelta, TRCELoadDelta, TRCESaveDelta
from .erase import TRCEErase
from .erase_by import TRCEEraseByMethod
from .export import TRCEDeltaToLoRA, TRCESaveDiffusers
from .import_weights import TRCELoadWeights
from .probes import PROBES
from .report import TRCEReport

NODES = [
    TRCEErase,
    TRCEApplyDelta,
    TRCESaveDelta,
    TRCELoadDelta,
    TRCEDeltaToLoRA,
    TRCESaveDiffusers,
    TRCELoadWeights,
    TRCEEraseConcepts,
    TRCEKeepConcepts,
    TRCEReport,
    *PROBES,
    TRCEEraseByMethod,
]
