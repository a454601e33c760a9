"""The small files of an artifact, read so that damage is one line and never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from seap_export.errors import ArtifactError

__all__ = ["load_tokenizer", "read_object"]


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ArtifactError: The file is missing, cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; export again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not a readable JSON file ({error}); it is damaged, export again") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: expected a JSON object; it is damaged, export again")
    return value


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder's tokenizer.json, which adds the special tokens that the file says.

    It neither pads nor cuts, even if the file was saved while the tokenizer did.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; export again")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # `tokenizers` raises a bare Exception
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path}: cannot be loaded ({reason}); it is damaged, export again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
