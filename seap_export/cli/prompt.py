"""Reads prompts from a file or stdin."""

from __future__ import annotations

import sys
from pathlib import Path


def read_prompt(file: Path) -> str:
    """The contents of the file, or of stdin for `-`, without the final line break.

    Raises:
        InputError: The file cannot be read, or is not UTF-8.
    """
    from seap_export.errors import InputError, MissingInput

    try:
        read = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return read.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n")
    except OSError as error:
        kind = MissingInput if isinstance(error, FileNotFoundError) else InputError
        raise kind(f"{file}: cannot be read ({error.strerror}); give a text file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text; save it as UTF-8") from error
