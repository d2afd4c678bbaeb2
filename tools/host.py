"""A ComfyUI server of our own, driven over HTTP."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .installation import Installation
from .process import ROOT, DevError, child_environment

MODEL_FOLDERS = ("checkpoints", "controlnet", "erased_deltas", "loras", "text_encoders", "vae")


class HostError(DevError):
    """ComfyUI did not start, or stopped while it was needed."""


class WorkflowError(DevError):
    """ComfyUI refused a workflow or failed in it. `details` is its answer, or the history entry, as JSON."""

    def __init__(self, message: str, details: dict[str, Any]) -> None:
        super().__init__(message)
        self.details = details


class Host:
    """A ComfyUI server on a free port of 127.0.0.1, with the pack, the demo model and folders of its own.

        with Host() as host:
            entry = host.queue(prompt)          # an API-format workflow; returns its history entry
            entry["outputs"]                    # what the nodes showed and saved

    Attributes: url, port, process, log (Path of the server's output), models, folder (holds user/, input/, temp/ and,
    unless output_dir was given, output/), output_dir. Without `folder` a temporary one is made and removed again.
    """

    def __init__(
        self,
        installation: Installation | None = None,
        *,
        models: Path | None = None,  # the installation's unless given
        output_dir: Path | None = None,
        folder: Path | None = None,
        port: int | None = None,
        quiet: bool = True,  # output goes to the log instead of the terminal
    ) -> None:
        self.installation = installation or Installation.from_environment()
        self.models = models or self.installation.models
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._temporary = folder is None
        self.folder = Path(folder or tempfile.mkdtemp(prefix="trce-host-")).absolute()
        self.output_dir = (output_dir or self.folder / "output").absolute()
        self.log = self.folder / "host.log"
        self._quiet = quiet

    def __enter__(self) -> Host:
        self.start()
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        # ComfyUI makes a folder temp/ in what it is given as --temp-directory, and empties it.
        places = {"user": self.folder / "user", "input": self.folder / "input"}
        places |= {"output": self.output_dir, "temp": self.folder}
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        for name in MODEL_FOLDERS:
            (self.models / name).mkdir(parents=True, exist_ok=True)
        for picture in (ROOT / "demo" / "examples" / "input").glob("*"):
            shutil.copyfile(picture, places["input"] / picture.name)
        model_paths = self.folder / "model_paths.yaml"  # JSON is YAML, and needs no thought about quoting
        folders = {"base_path": str(self.models), "is_default": True} | {n: n for n in MODEL_FOLDERS}
        model_paths.write_text(json.dumps({"trce": folders}), encoding="utf-8")
        command = [self.installation.python, self.installation.comfyui / "main.py"]
        command += ["--listen", "127.0.0.1", "--port", str(self.port), "--disable-auto-launch", "--disable-api-nodes"]
        command += ["--database-url", "sqlite:///:memory:", "--extra-model-paths-config", model_paths]
        command += [part for name, place in places.items() for part in (f"--{name}-directory", place)]
        command += [] if has_gpu(self.installation.python) else ["--cpu"]
        with self.log.open("wb") as log:
            sinks = {"stdout": log, "stderr": log} if self._quiet else {}
            where = {"cwd": self.folder, "env": child_environment()}
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **sinks, **where)

    def wait(self, seconds: float = 180) -> None:
        """Return when the server answers."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise self._gone("ComfyUI did not start")
            with contextlib.suppress(OSError):
                self.request("/system_stats")
                return
            time.sleep(0.1)
        raise self._gone(f"ComfyUI did not answer within {seconds:.0f} s")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def request(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """GET, or POST where there is a body; returns the JSON of the answer, None for an empty one.

        Raises urllib.error.HTTPError for an answer of 400 and more.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy leads to 127.0.0.1
        with direct.open(request, timeout=60) as answer:
            return json.loads(answer.read() or "null")

    def submit(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Put a workflow into the queue and return at once; the answer has prompt_id and node_errors."""
        try:
            return self.request("/prompt", {"prompt": prompt})
        except urllib.error.HTTPError as error:
            answer = json.loads(error.read())
            raise WorkflowError(describe_rejection(answer, prompt), answer) from error

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The entry of a finished workflow, else None."""
        return self.request(f"/history/{prompt_id}").get(prompt_id)

    def interrupt(self) -> None:
        """Press the cancel button."""
        self.request("/interrupt", {})

    def queue(self, prompt: dict[str, Any], waiting: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Run a workflow to its end, calling `waiting` every now and then, and return its history entry.

        Raises WorkflowError when the server refuses it, when a node fails, and when it is interrupted.
        """
        answer = self.submit(prompt)
        while (entry := self._finished(answer["prompt_id"])) is None:
            waiting()
            time.sleep(0.1)
        if not entry["status"]["completed"]:
            raise WorkflowError(describe_failure(entry, prompt), entry)
        if answer["node_errors"]:  # ComfyUI runs the part of a workflow that is valid
            raise WorkflowError(describe_rejection(answer, prompt), answer)
        return entry

    def _finished(self, prompt_id: str) -> dict[str, Any] | None:
        if self.process.poll() is not None:
            raise self._gone("ComfyUI stopped in the middle of the workflow")
        with contextlib.suppress(OSError):  # too busy to answer, or just gone
            return self.history(prompt_id)

    def _gone(self, what: str) -> HostError:
        tail = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        return HostError("\n".join([f"{what}. The end of its log:", *tail]))


def has_gpu(python: Path) -> bool:
    if sys.platform != "darwin" and not any(map(shutil.which, ("nvidia-smi", "rocminfo", "xpu-smi"))):
        return False  # without a driver there is no need to wait for torch
    question = "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available())"
    answer = subprocess.run([python, "-I", "-c", question], capture_output=True, text=True)
    return answer.stdout.strip() == "True"


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def node_title(prompt: dict[str, Any], node_id: str) -> str:
    node = prompt.get(node_id, {})
    return f"{node.get('_meta', {}).get('title') or node.get('class_type', 'node')} (#{node_id})"


def describe_rejection(answer: dict[str, Any], prompt: dict[str, Any]) -> str:
    """What ComfyUI has against a workflow, one line for each wrong input."""
    if not answer["node_errors"]:
        return f"{answer['error']['message']} {answer['error']['details']}".strip()
    lines = []
    for node_id, node in answer["node_errors"].items():
        for error in node["errors"]:
            name = error["extra_info"].get("input_name")
            where = node_title(prompt, node_id) + (f", input {name!r}" if name else "")
            details = "" if error["details"] in ("", name) else f" ({error['details']})"
            lines.append(f"{where}: {error['message']}{details}")
    return "\n".join(lines)


def describe_failure(entry: dict[str, Any], prompt: dict[str, Any]) -> str:
    """Which node failed or was interrupted, with the exception, the line that raised it and the node's inputs."""
    messages = dict(entry["status"]["messages"])
    if "execution_interrupted" in messages:
        return f"Interrupted in {node_title(prompt, messages['execution_interrupted']['node_id'])}."
    error = messages["execution_error"]
    inputs = [f"{name}={' '.join(str(value).split()):.60}" for name, value in error["current_inputs"].items()]
    what = f"{node_title(prompt, error['node_id'])}: {error['exception_type']}: {error['exception_message'].strip()}"
    where = [line.rstrip() for line in error["traceback"][-1:]]
    return "\n".join([what, *where, *([f"  inputs: {', '.join(inputs)}"] if inputs else [])])
