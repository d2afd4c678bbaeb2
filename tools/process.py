"""Running other programs, with a log, a line now and then, and one sentence where something goes wrong."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK_NAME = "comfyui-trce"

Report = Callable[[str], None]  # shows what is going on


class DevError(Exception):
    """Something foreseeable went wrong; the message is all that the user needs to see."""


def paced(seconds: float) -> Report:
    """A function that prints a line, but not more than one every so many seconds."""
    last = time.monotonic()

    def report(text: str) -> None:
        nonlocal last
        if text and time.monotonic() - last >= seconds:
            print(text)
            last = time.monotonic()

    return report


def child_environment() -> dict[str, str]:
    # A PYTHONPATH that names the repository would let nodes/ shadow ComfyUI's nodes.py.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment.update(PYTHONUNBUFFERED="1", DO_NOT_TRACK="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    if sys.platform == "linux":
        # Large tensors are otherwise mapped and unmapped at every step, which was measured at 40 % of the time.
        environment.update(MALLOC_MMAP_THRESHOLD_=str(4 << 30), MALLOC_TRIM_THRESHOLD_=str(32 << 30))
    return environment


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


def run_logged(command: Sequence[str | Path], log: Path, report: Report, **environment: str) -> None:
    """Run a command with its output in the log. Raises DevError where it fails."""
    with log.open("ab") as sink:
        begin = sink.tell()
        inherited = child_environment() | environment
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=inherited)
        try:
            while process.poll() is None:
                time.sleep(0.1)
                report(last_line(log, begin))
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


def last_line(log: Path, position: int = 0) -> str:
    """The newest line of a log, where a progress bar's carriage return ends a line as well."""
    text = read_from(log, max(position, log.stat().st_size - 2000))
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:100]


UNREACHABLE = r"Failed to (establish|fetch)|Max retries|timed out|unreachable|resolution|getaddrinfo|sending request"
FAILURES = [  # in the output of pip and uv, and what it means
    (r"No space left on device|not enough space", "The disk is full"),
    (r"DO NOT MATCH THE HASHES|Hash mismatch", "What the package registry sent is not the file that the lock names"),
    (UNREACHABLE, "The package registry could not be reached"),
    (r"ensurepip", "Python cannot make virtual environments; on Debian and Ubuntu install python3-venv"),
    (r"(?im)^ *(error|caused by): ", ""),  # its own last word
]


def failure_sentence(output: str) -> str:
    for pattern, sentence in FAILURES:
        if re.search(pattern, output):
            return sentence or re.split(pattern, output)[-1].split("\n")[0].strip().rstrip(".")
    return (output.strip() or "The command failed without a word").splitlines()[-1]
