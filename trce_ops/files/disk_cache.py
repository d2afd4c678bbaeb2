"""A cache on disk for results that take long to compute.

A cache must never stop the work it serves: a file that cannot be read, written or removed is a warning in the log.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from torch import Tensor

from .atomic import load_checked, save_checked

log = logging.getLogger(__name__)

FILES = 32  # of one kind; beyond these, or beyond MAX_BYTES, the least recently used are removed
MAX_BYTES = 1 << 30

Result = TypeVar("Result")


@dataclass(frozen=True)
class DiskCache:
    """Tensors in a folder, one file per key; file names begin with `kind`. Without a folder it stores nothing."""

    folder: str | os.PathLike | None
    kind: str

    def path(self, key: object) -> Path | None:
        """The file for a key, which is anything that json can write; None without a folder."""
        if self.folder is None:
            return None
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return Path(self.folder, f"{self.kind}_{digest[:32]}.safetensors")

    def read(self, key: object, parse: Callable[[dict[str, Tensor]], Result]) -> Result | None:
        """What `parse` makes of the tensors under a key; None when there are none, or none that can be used.

        `parse` may raise ValueError, TypeError or KeyError for tensors that it does not accept.
        """
        path = self.path(key)
        if path is None:
            return None
        try:
            tensors = load_checked(path)
            if not all(tensor.isfinite().all() for tensor in tensors.values()):
                raise ValueError("it holds NaN or Inf")
            return parse(tensors)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            log.warning("The cache file %s cannot be used (%s); computing its content again.", path.name, error)
            return None

    def write(self, key: object, tensors: Mapping[str, Tensor]) -> None:
        """Store tensors under a key, and remove old files when there are too many."""
        path = self.path(key)
        if path is None:
            return
        try:
            save_checked(path, tensors)
        except OSError as error:
            log.warning("The cache file %s cannot be written (%s); the next run computes it again.", path, error)
            return
        self._prune(path)

    def _prune(self, newest: Path) -> None:
        found = []
        for path in newest.parent.glob(f"{self.kind}_*.safetensors"):
            with suppress(OSError):  # another process may have removed it
                stat = path.stat()
                found.append((path == newest, stat.st_mtime, stat.st_size, path))
        total = 0
        for number, (_, _, size, path) in enumerate(sorted(found, reverse=True)):
            total += size
            if number and (number >= FILES or total > MAX_BYTES):
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    log.warning("The old cache file %s cannot be removed (%s).", path, error)
