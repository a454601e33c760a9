"""Names of tasks and mixtures, which become names of folders on every operating system."""

from __future__ import annotations

import re

#: The rule in words, for error messages.
NAME_RULE = "up to 64 of A-Z a-z 0-9 - _ . (no '.' at either end), and not a Windows device name such as nul"

_NAME = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_-])?")
#: Names that Windows reserves for devices, with any suffix and in any case.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def is_folder_name(name: str) -> bool:
    """Whether a folder can have this name on Linux, macOS and Windows."""
    return _NAME.fullmatch(name) is not None and _DEVICE.fullmatch(name) is None
