"""JSON files: read with limits and a one-line error, written the same on every machine."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seap_export.errors import ArtifactError, InputError

#: The largest JSON file that is read (256 MiB); tokenizers with large vocabularies take 35 MB.
MAX_JSON_BYTES = 256 * 2**20


def read_json(
    path: Path,
    remedy: str = "correct it, or download it again",
    make_object: Callable[[list[tuple[str, Any]]], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """Reads a JSON object; the errors end with the remedy.

    Args:
        remedy: What the user can do if it cannot be read.
        make_object: Makes each object of its keys and values; a `ValueError` says what is wrong with one.

    Raises:
        InputError: The file is missing, larger than `MAX_JSON_BYTES` or not a JSON object, or contains a number that
            is not finite as a float.
    """
    if not os.path.exists(path):  # unlike Path.exists, does not raise for an impossible name
        raise InputError(f"{path}: no such file; {remedy}")
    if not os.path.isfile(path):
        raise InputError(f"{path}: not a readable JSON file (not a file); {remedy}")
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise ValueError(f"{size / 1e6:.0f} MB, the limit is {MAX_JSON_BYTES / 1e6:.0f} MB")
        value = parse_json(path.read_text("utf-8"), make_object)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error}); {remedy}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object; {remedy}")
    return value


def parse_json(text: str | bytes, make_object: Callable[[list[tuple[str, Any]]], dict[str, Any]] = dict) -> Any:
    """Parses JSON; see `read_json`.

    Raises:
        ValueError: It is not JSON, or contains a number that is not finite as a float.
        RecursionError: It is nested too deeply.
    """
    return json.loads(
        text, parse_int=_whole, parse_float=_finite, parse_constant=_finite, object_pairs_hook=make_object
    )


def read_json_if_present(path: Path) -> dict[str, Any] | None:
    """Reads a JSON object as `read_json` does; None: there is no such file."""
    return read_json(path) if path.is_file() else None


def read_artifact(path: Path) -> dict[str, Any]:
    """Reads a JSON object that this package wrote.

    Raises:
        ArtifactError: The file is missing or is no longer a JSON object.
    """
    try:
        return read_json(path, "the file is damaged, export again")
    except InputError as error:
        raise ArtifactError(str(error)) from error


def json_text(value: Any, *, indent: int = 1, sort_keys: bool = False, ensure_ascii: bool = False) -> str:
    """The content of a JSON file, which ends with a newline."""
    return json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=ensure_ascii) + "\n"


def write_json(
    path: Path, value: Any, *, indent: int = 1, sort_keys: bool = False, ensure_ascii: bool = False
) -> None:
    """Writes a JSON file in UTF-8.

    Raises:
        OSError: It cannot be written.
    """
    text = json_text(value, indent=indent, sort_keys=sort_keys, ensure_ascii=ensure_ascii)
    path.write_text(text, "utf-8", newline="\n")


def _whole(text: str) -> int:
    _finite(text)
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it contains the number {text:.20}")
    return number
