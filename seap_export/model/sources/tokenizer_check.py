"""Finds damage in tokenizer files that the libraries do not report properly.

The tokenizers library is written in Rust. On input that it does not expect it panics, which prints a stack trace and
is not an `Exception`, or tries to allocate whatever a number in the file says and aborts the process.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seap_export.common.json_file import read_json
from seap_export.errors import InputError
from seap_export.runtime.limits import excess, unique_keys


def check_tokenizer(path: Path) -> None:
    """Rejects a tokenizer.json with damage that the library does not report."""
    values = read_json(path, make_object=unique_keys)
    if problem := excess(values):
        raise InputError(f"{path}: {problem}; it may be meant to harm, so use the tokenizer of another copy")
    for part in _parts(values.get("post_processor"), "processors"):
        if part.get("type") == "TemplateProcessing":
            _check_template(part, path)
    for part in _parts(values.get("normalizer"), "normalizers"):
        if part.get("type") == "Precompiled":
            _check_table(part.get("precompiled_charsmap"), path)


def check_tokenizer_config(path: Path, config: Mapping[str, Any]) -> None:
    """Rejects a tokenizer_config.json whose `model_max_length` cannot be compared with the length of a text."""
    longest = config.get("model_max_length")
    if longest is not None and not isinstance(longest, int | float):
        raise InputError(f"{path}: model_max_length must be a number, not {longest!r:.40}; correct it")


def _parts(value: Any, key: str) -> Iterator[dict[str, Any]]:
    """A part of a tokenizer and, if it is a sequence, the parts in it."""
    if isinstance(value, dict):
        yield value
        inner = value.get(key)
        for part in inner if isinstance(inner, list) else ():
            yield from _parts(part, key)


def _check_template(part: Mapping[str, Any], path: Path) -> None:
    defined = part.get("special_tokens")
    for name in ("single", "pair"):
        pieces = part.get(name)
        for piece in pieces if isinstance(pieces, list) else ():
            special = piece.get("SpecialToken") if isinstance(piece, dict) else None
            token = special.get("id") if isinstance(special, dict) else None
            if token is not None and not (isinstance(defined, dict) and isinstance(token, str) and token in defined):
                raise InputError(f"{path}: its template uses the undefined token {token!r:.40}; download it again")


def _check_table(text: Any, path: Path) -> None:
    """Checks sentencepiece's map: the size of a trie in bytes (4 bytes, little-endian), the trie, and strings."""
    try:
        table = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise InputError(f"{path}: its character map is damaged ({error}); download it again") from error
    if len(table) < 4 or int.from_bytes(table[:4], "little") > len(table) - 4:
        raise InputError(f"{path}: its character map is shorter than declared; download it again")
