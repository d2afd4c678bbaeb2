"""The checks: of the repository, and of the copy of the pack that users get."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree, ignore_patterns

from .installation import Installation, program
from .process import ROOT, child_environment


@dataclass(frozen=True)
class Check:
    name: str
    command: Sequence[str | Path]  # the first is a program of the environment
    place: Path
    environment: dict[str, str] = field(default_factory=dict)
    clean: str = ""  # what the output must say, of a program that never fails

    def run(self, installation: Installation) -> str | None:
        """The output of a check that failed."""
        command = [program(installation.venv, str(self.command[0])), *self.command[1:]]
        environment = child_environment() | self.environment
        options = {"stdin": subprocess.DEVNULL, "capture_output": True, "encoding": "utf-8", "errors": "replace"}
        done = subprocess.run(command, cwd=self.place, env=environment, **options)
        return done.stdout + done.stderr if done.returncode or self.clean not in done.stdout else None


def copy_pack(folder: Path) -> Path:
    """What the registry hands out, under a name that Python takes for a package's."""
    left_out = {line.strip("/") for line in (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()}
    usual, pack = ignore_patterns(".*", "__pycache__", "*_output"), folder / "comfyui_trce"
    copytree(ROOT, pack, ignore=lambda at, names: usual(at, names) | (left_out if Path(at) == ROOT else set()))
    return pack


def checks(folder: Path, python: Path, caches: Path) -> Iterator[Check]:
    pack = copy_pack(folder)
    types = ["basedpyright", "--level", "error", "--pythonpath", python]
    yield Check("types", types, ROOT)
    yield Check("ruff", ["ruff", "check", "--output-format", "concise", "--cache-dir", caches / "ruff", "."], ROOT)
    yield Check("format", ["ruff", "format", "--check", "--cache-dir", caches / "ruff", "."], ROOT)
    layers = ["lint-imports", "--no-logo", "--cache-dir", caches / "import_linter", "--config", ROOT / "pyproject.toml"]
    yield Check("layers", layers, folder)
    yield Check("workflows of the code host", ["zizmor", "--offline", "--no-progress", ".github"], ROOT)
    yield Check("comfy node validate", ["comfy", "--skip-prompt", "node", "validate"], pack)
    yield Check("comfy-test lint", ["comfy-test", "lint", "--strict"], pack)
    # Its command line starts no server for these; it asks for an address all the same.
    config = folder / "hazards.toml"
    config.write_text('[test]\nname = "comfyui-trce"\nlevels = ["hazards"]\n', encoding="utf-8")
    hazards = ["comfy-test", "run", "--server-url", "http://127.0.0.1", "--config", config]
    scratch = {"COMFY_TEST_LOGS_DIR": str(folder / "logs"), "TMPDIR": str(folder)}
    yield Check("comfy-test hazards", hazards, pack, scratch, clean="Hazards check: clean")


def lint(installation: Installation) -> int:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        todo = list(checks(Path(folder), installation.python, installation.host_dir / "lint"))
        outputs = list(pool.map(lambda check: check.run(installation), todo))
    for check, output in zip(todo, outputs):
        print(f"{check.name}: {'ok' if output is None else 'failed'}")
        if output is not None:
            print(output)
    return int(any(output is not None for output in outputs))
