"""Checks file names from widgets and from other people's workflows."""

from __future__ import annotations

import re

# Refuses Windows' device names, characters that are special on some system, and names made of dots.
NAME = re.compile(r'(?!(con|prn|aux|nul|com\d|lpt\d)(\.|$))[^<>:"|?*]*[^<>:"|?*. ]', re.IGNORECASE)
MAX_BYTES = 150  # of the 255 that a name may have; a number and a suffix are added


class FileNameError(ValueError):
    """A file name that is refused."""


def portable_name(prefix: str) -> str:
    """`prefix` with '/' between sub-folders: a name that is valid and means the same on every system.

    Raises FileNameError for a name that leaves the folder or that some operating system rejects.
    """
    name = prefix.replace("\\", "/")
    sound = name.isprintable() and len(name.encode()) <= MAX_BYTES
    if not sound or not all(NAME.fullmatch(part) for part in name.split("/")):
        raise FileNameError(
            f"'filename_prefix' is {prefix[:80]!r}, under which not every system can save; write at most {MAX_BYTES} "
            "letters, digits, spaces, '-' and '_', such as 'no-violence', with '/' between sub-folders."
        )
    return name
