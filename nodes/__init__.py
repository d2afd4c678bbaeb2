"""The node faces: schemas and tooltips. host/ knows ComfyUI's classes, ui/ draws, web/ holds the help pages."""

from .attacks import PROBES
from .delta import TRCEApplyDelta, TRCELoadDelta, TRCESaveDelta
from .erase import TRCEErase
from .erase_by_method import TRCEEraseByMethod
from .erase_concepts import TRCEEraseConcepts
from .erase_from_pictures import TRCEEraseFromPictures
from .export import TRCEDeltaToLoRA, TRCESaveDiffusers
from .import_weights import TRCELoadWeights
from .keep_concepts import TRCEKeepConcepts
from .method_settings import TRCEMethodSettings
from .report import TRCEReport
from .settings import TRCESettings

NODES = [
    TRCEErase,
    TRCESettings,
    TRCEEraseFromPictures,
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
    TRCEMethodSettings,
]
