"""What dev.py does: one function a verb, which returns the exit code."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from .host import Host, free_port, is_taken, node_title
from .installation import Installation
from .lint import lint
from .pins import COMFYUI_VERSION
from .process import PACK_NAME, ROOT, DevError, call, last_line, paced


def test(installation: Installation, arguments: Sequence[str]) -> int:
    lint_failed = installation.version in (None, COMFYUI_VERSION) and lint(installation)
    # -I: "python -m" would else put the repository root on sys.path, where nodes/ shadows ComfyUI's nodes.py.
    caches = installation.host_dir
    (caches / "hypothesis").mkdir(exist_ok=True)  # here, as a test watches that nothing new appears beside it
    command = [installation.python, "-I", "-m", "pytest", "-o", f"cache_dir={caches / 'pytest_cache'}", *arguments]
    environment = {
        "COMFYUI_PATH": str(installation.comfyui),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(caches / "hypothesis"),
    }
    if not arguments:
        cores = os.cpu_count() or 1
        workers = min(cores, 4)  # each takes 3 GB
        command += ["-n", str(workers), "--dist", "loadgroup", "--no-loadscope-reorder", "--durations", "15"]
        environment["OMP_NUM_THREADS"] = str(cores // workers)
    return call(command, **environment) or int(lint_failed)


def run(installation: Installation, workflow: Path, output_dir: Path) -> int:
    try:
        prompt = json.loads(workflow.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DevError(f"{workflow} cannot be read as a workflow: {error}") from error
    if "nodes" in prompt:
        raise DevError(f"{workflow} is in the UI's format; in ComfyUI choose File > Export (API) and run that file.")
    print("starting ComfyUI ...")
    with Host(installation, output_dir=output_dir) as host:
        start, report = time.monotonic(), paced(5)
        entry = host.queue(prompt, lambda: report(f"{time.monotonic() - start:.0f} s  {last_line(host.log)}"))
        print(f"done in {time.monotonic() - start:.0f} s; the files are in {output_dir}")
        for node_id, shown in entry["outputs"].items():
            for item in (item for items in shown.values() if isinstance(items, list) for item in items):
                if isinstance(item, str):
                    print(f"{node_title(prompt, node_id)}: {item}")
                elif isinstance(item, dict) and item.get("type") == "temp":  # a preview, gone when the host stops
                    shutil.copy2(host.folder / "temp" / item["subfolder"] / item["filename"], output_dir)
    return 0


def serve(installation: Installation, port: int) -> int:
    if is_taken(port):
        raise DevError(
            f"Something else answers on port {port}; it was left alone. Choose another port, for example: "
            f"python dev.py serve --port {free_port()}"
        )
    folder = installation.host_dir / "serve"
    settings = folder / "user" / "default" / "comfy.settings.json"
    if not settings.exists():  # Nodes 2.0 fold advanced inputs away, and Compare Images works only with them
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text('{"Comfy.VueNodes.Enabled": true}', encoding="utf-8")
    with Host(installation, folder=folder, port=port, quiet=False) as host:
        print(f"\nComfyUI with the pack and the demo model is open at {host.url} (Ctrl-C stops it)")
        print(f"To begin with: {host.url}/?template=compare-before-after&source={PACK_NAME} and press Run")
        try:
            return host.process.wait()
        except KeyboardInterrupt:
            return 0  # the way to leave


def demo(installation: Installation, output_dir: Path) -> int:
    command = [installation.python, ROOT / "demo" / "run_demo.py", "--output", output_dir.absolute()]
    if not (failed := call(command, COMFYUI_PATH=str(installation.comfyui))):
        print(f"The pictures, the delta and the report are in {output_dir}")
    return failed


def bench(installation: Installation, arguments: Sequence[str]) -> int:
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    scripts = {path.stem: path for path in files if "__main__" in path.read_text(encoding="utf-8")}  # others help them
    if not arguments or arguments[0] not in scripts:
        raise DevError(f"Name a benchmark: {', '.join(scripts)}.")
    command = [installation.python, scripts[arguments[0]], *arguments[1:]]
    return call(command, COMFYUI_PATH=str(installation.comfyui))


def train_demo(installation: Installation, arguments: Sequence[str]) -> int:
    command = [installation.python, ROOT / "demo" / "emoji" / "train.py", *arguments]
    return call(command, COMFYUI_PATH=str(installation.comfyui))


def comfyui_tests(installation: Installation) -> int:
    command = [installation.python, ROOT / "tests" / "comfyui_tests.py", str(free_port())]
    return call(command, COMFYUI_PATH=str(installation.comfyui))
