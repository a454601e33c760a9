"""What is wrong with a tokenizer's files, where the libraries that load them would not say so in an error.

The tokenizers library is written in Rust. What it takes for granted it does not report: it panics, which prints a
stack and is no `Exception`, or allocates what a number in the file says and aborts the process.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seap_export.errors import InputError
from seap_export.sources.config import read_json

__all__ = ["check_tokenizer", "check_tokenizer_config"]


def check_tokenizer(path: Path) -> None:
    """Refuses a tokenizer.json that is damaged in a way that the library does not report.

    Raises:
        InputError: It is no JSON object, its template uses a special token that it does not define, or its table of
            characters is shorter than it says.
    """
    values = read_json(path)
    for part in _parts(values.get("post_processor"), "processors"):
        if part.get("type") == "TemplateProcessing":
            _check_template(part, path)
    for part in _parts(values.get("normalizer"), "normalizers"):
        if part.get("type") == "Precompiled":
            _check_table(part.get("precompiled_charsmap"), path)


def check_tokenizer_config(path: Path, config: Mapping[str, Any]) -> None:
    """Refuses a tokenizer_config.json whose `model_max_length` is none: it is compared with the length of texts.

    Raises:
        InputError: It is another value than a number.
    """
    longest = config.get("model_max_length")
    if longest is not None and not isinstance(longest, int | float):
        raise InputError(f"{path}: model_max_length must be a number, not {longest!r:.40}")


def _parts(value: Any, key: str) -> Iterator[dict[str, Any]]:
    """A part of a tokenizer, and those that it is a sequence of."""
    if isinstance(value, dict):
        yield value
        inner = value.get(key)
        for part in inner if isinstance(inner, list) else ():
            yield from _parts(part, key)


def _check_template(part: Mapping[str, Any], path: Path) -> None:
    known = part.get("special_tokens")
    for name in ("single", "pair"):
        pieces = part.get(name)
        for piece in pieces if isinstance(pieces, list) else ():
            special = piece.get("SpecialToken") if isinstance(piece, dict) else None
            token = special.get("id") if isinstance(special, dict) else None
            if token is not None and not (isinstance(known, dict) and isinstance(token, str) and token in known):
                raise InputError(
                    f"{path}: its template uses {token!r:.40}, which it does not define; download it again"
                )


def _check_table(text: Any, path: Path) -> None:
    """Of sentencepiece: the size of a trie in bytes, 4 bytes little-endian, the trie, and texts."""
    try:
        table = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise InputError(f"{path}: its table of characters is damaged ({error}); download it again") from error
    if len(table) < 4 or int.from_bytes(table[:4], "little") > len(table) - 4:
        raise InputError(f"{path}: its table of characters is shorter than it says; download it again")
