"""Prompts as arguments, from a file or from stdin."""

from __future__ import annotations

import sys
from pathlib import Path

from seap_export.cli.groups import option
from seap_export.cli.values import PathType

prompt_file_option = option(
    "--prompt-file", type=PathType(allow_dash=True), help="Read the prompt from this file; - is stdin."
)


def given_prompt(prompt: str | None, file: Path | None) -> str:
    """The prompt itself, or the contents of the file, or of stdin for `-`, without the final line break."""
    from seap_export.errors import UsageError

    if (prompt is None) == (file is None):
        raise UsageError("give either a prompt or --prompt-file")
    if prompt == "-":
        file = Path("-")
    return str(prompt) if file is None else read_prompt(file)


def read_prompt(file: Path) -> str:
    """The contents of the file, or of stdin for `-`, without the final line break."""
    from seap_export.errors import InputError, MissingInput

    try:
        read = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return read.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n")
    except OSError as error:
        raise MissingInput(f"{file}: cannot be read ({error.strerror}); give a text file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text; save it as UTF-8") from error
