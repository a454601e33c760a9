"""The small files of an artifact, read so that damage is one line and never a traceback."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from seap_export.errors import ArtifactError

__all__ = ["load_tokenizer", "model_limits", "read_object"]

_MAX_BYTES = 256 * 2**20


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ArtifactError: The file is missing, cannot be read, is larger than 256 MiB, or holds something else.
    """
    try:
        if os.path.exists(path) and (not os.path.isfile(path) or path.stat().st_size > _MAX_BYTES):
            raise ValueError("it is no file, or far too large")
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
        tokenizer.encode("")  # panics if its template uses a token that it does not define
    except BaseException as error:  # `tokenizers` raises a bare Exception, and its panics are not even that
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path}: cannot be loaded ({reason}); it is damaged, export again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def model_limits(path: Path) -> tuple[frozenset[int], int]:
    """The end-of-sequence tokens and the context length that a genai_config.json names.

    Raises:
        ArtifactError: The file is missing, or names none.
    """
    model = read_object(path).get("model")
    values = model if isinstance(model, dict) else {}
    eos, context = values.get("eos_token_id"), values.get("context_length")
    ids = eos if isinstance(eos, list) else [eos]
    if not ids or not all(isinstance(token, int) for token in ids) or not isinstance(context, int):
        raise ArtifactError(f"{path}: it names no eos_token_id or no context_length; it is damaged, export again")
    return frozenset(ids), context
