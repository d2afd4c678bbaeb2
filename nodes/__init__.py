"""The node faces: schemas, tooltips, and the one adapter that knows ComfyUI (host.py)."""

from .delta import TRCEApplyDelta, TRCELoadDelta, TRCESaveDelta
from .erase import TRCEErase

NODES = [TRCEErase, TRCEApplyDelta, TRCESaveDelta, TRCELoadDelta]
