"""Names of files that a user writes into a widget, or a stranger into a workflow."""

from __future__ import annotations

import re

# What Windows keeps for devices, characters that one system or another gives a meaning, and names that only go upwards.
NAME = re.compile(r'(?!(con|prn|aux|nul|com\d|lpt\d)(\.|$))[^<>:"|?*]*[^<>:"|?*. ]', re.IGNORECASE)
MAX_BYTES = 150  # of the 255 that a name may have; a number and an ending are put behind it


class FileNameError(ValueError):
    """A name under which nothing is saved."""


def portable_name(prefix: str) -> str:
    """The widget's `prefix` with '/' between sub-folders: a name that means the same on every system.

    Raises FileNameError for one that leads elsewhere than down, or that some system does not take.
    """
    name = prefix.replace("\\", "/")
    sound = name.isprintable() and len(name.encode()) <= MAX_BYTES
    if not sound or not all(NAME.fullmatch(part) for part in name.split("/")):
        raise FileNameError(
            f"'filename_prefix' is {prefix[:80]!r}, under which not every system can save; write at most {MAX_BYTES} "
            "letters, digits, spaces, '-' and '_', such as 'no-violence', with '/' between sub-folders."
        )
    return name
