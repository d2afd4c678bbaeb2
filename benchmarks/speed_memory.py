"""The peak working set of stage 1, ours or the official one, in a process of its own. See benchmarks/speed.py.

Working set: what the process takes at its peak beyond what it holds before the edit (text encoder, projections, and
P or the cache of it). Linux only, for only there can the kernel be told to forget an earlier peak.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

OURS, OFFICIAL = "ours", "official"


def supported() -> bool:
    return os.access("/proc/self/clear_refs", os.W_OK)


def measure(procedure: str, concepts: int) -> float:
    """Megabytes."""
    command = [sys.executable, __file__, procedure, str(concepts)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.split()[-1])


def status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def _run(procedure: str, concepts: int) -> float:
    import torch

    torch.set_num_threads(1)
    import speed_models
    from speed_stage1 import Stage1, official

    pack = speed_models.load()
    with torch.inference_mode():
        stage1 = Stage1(pack)
        prompts = speed_models.make_prompts(pack, concepts)
        cache = stage1.cache() if procedure == OFFICIAL else None
        ctypes.CDLL(None).malloc_trim(0)  # what was freed so far is no part of what is held
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        # Both end with the edited projections in memory.
        if procedure == OFFICIAL:
            edited = official.refine(stage1.projections, stage1.prepare(prompts), cache)
        else:
            edited = stage1.apply(stage1.context_map(stage1.solve(stage1.embed(prompts))))
        assert len(edited) == len(stage1.projections)
        return status("VmHWM") - before


if __name__ == "__main__":
    print(_run(sys.argv[1], int(sys.argv[2])))
