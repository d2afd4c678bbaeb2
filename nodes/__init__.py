"""The node faces: schemas and tooltips. host/ knows ComfyUI's classes, ui/ draws, web/ holds the help pages."""

from .attacks import PROBES
from .concept_lists import TRCEEraseConcepts, TRCEKeepConcepts
from .delta import TRCEApplyDelta, TRCELoadDelta, TRCESaveDelta
from .erase import TRCEErase
from .erase_by_method import TRCEEraseByMethod
from .export import TRCEDeltaToLoRA, TRCESaveDiffusers
from .import_weights import TRCELoadWeights
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
