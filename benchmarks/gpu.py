"""What only a GPU can show: `python dev.py bench gpu [--output DIR] [--parts ...]`

Correctness first: the map on the weights against the map on the conditioning in four precisions, strength 0, twenty
steps of tuning and a cancel, also with DynamicVRAM; then peak memory, also of large models. Then seconds: stage 1,
tuning, and what a delta adds to sampling, for SD1.5 at 512 pixels and SDXL at 1024. All weights are random.

Every part is a process of its own with its own time limit, and writes what it finds to DIR/PART.json as it goes, so
that a failure costs no other part and a time-out only what was still to come. All limits together are under 8 minutes.
It needs no network and no weights. `--device cpu --small` tries it out on models a few channels wide.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import resume

LIMITS = {"exactness": 65, "tuning": 65, "dynamic": 65, "memory": 45, "graphs": 40, "sd1": 90, "sdxl": 105}  # seconds


def in_process(part: str, options: argparse.Namespace) -> dict:
    """Run one part in a process of its own, and add to its file how it ended."""
    file = options.output / f"{part}.json"
    file.unlink(missing_ok=True)
    limit = LIMITS[part] if options.limit is None else options.limit
    command = [sys.executable, __file__, "--part", part, "--device", options.device, "--output", str(options.output)]
    command += ["--limit", str(limit), *(["--small"] if options.small else [])]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}
    began = time.perf_counter()
    try:
        code = subprocess.run(command, timeout=limit, env=os.environ | hidden).returncode
        ended = "finished" if code == 0 else f"failed with exit status {code}"
    except subprocess.TimeoutExpired:
        ended = f"stopped after {limit:g} s"
    found = resume.read(file) or {}
    wrong = [name for name, value in found.items() if name.startswith("ok") and not value]
    found |= {"ended": ended, "wall_seconds": round(time.perf_counter() - began, 1), "wrong": wrong}
    resume.write(file, found)
    print(f"{part}: {ended} in {found['wall_seconds']} s{', wrong: ' + ', '.join(wrong) if wrong else ''}", flush=True)
    return found


def run_part(options: argparse.Namespace) -> None:
    """One part in this process, which was started for it."""
    import torch
    from gpu_parts import PARTS, Run, random_models

    random_models.load(dynamic_vram=options.part == "dynamic" and options.device == "cuda")
    run = Run(options.device, options.small, options.limit, options.output / f"{options.part}.json")
    if options.device == "cuda":
        run.note(device=torch.cuda.get_device_name(), torch=torch.__version__)
    with torch.inference_mode():  # as ComfyUI runs nodes
        try:
            PARTS[options.part](run)
        except Exception as error:
            run.note(error=f"{type(error).__name__}: {error}")
            raise


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu_results"), metavar="DIR")
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="models a few channels wide, to try the script out")
    parser.add_argument("--limit", type=float, help="seconds for each part, in place of its own")
    parser.add_argument("--part", choices=LIMITS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        run_part(options)
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    ended = [in_process(part, options) for part in options.parts]
    return int(any(found["ended"] != "finished" or found["wrong"] for found in ended))


if __name__ == "__main__":
    sys.exit(main())
