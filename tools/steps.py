"""Set-up as a list of steps, each stamped with the pins that its result was made from once it is whole."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .process import DevError, Report, paced


@dataclass(frozen=True)
class Step:
    title: str
    result: Path  # what the step makes
    stamp: Path  # holds the pins that the result was made from; written last
    pins: str
    make: Callable[[Report], None]
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
    report = paced(10)
    with locked(host_dir / "lock"):
        for number, step in enumerate(steps, 1):
            if step.done():  # a set-up that held the lock before us may have made it
                continue
            title = f"[{number}/{len(steps)}] {step.title}"
            start = time.monotonic()
            print(f"{title} ...")
            try:
                step.stamp.unlink(missing_ok=True)
                step.make(report)
                step.stamp.parent.mkdir(parents=True, exist_ok=True)
                step.stamp.write_text(step.pins, encoding="utf-8")
            except OSError as error:
                raise DevError(f"{step.title}: {error.strerror}: {error.filename}") from error
            print(f"{title}: done in {time.monotonic() - start:.0f} s")


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
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
