"""Finds out how much a tokenizer.json can make of a text, without loading it.

The tokenizers library is written in Rust: without memory it aborts the process, which nothing can catch, and a regular
expression that takes forever cannot be interrupted. So what multiplies a text is counted beforehand, and what reads
strangers' texts is watched (`watched`).
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Callable, Iterator, Mapping
from math import ceil, prod
from typing import Any, TypeVar

#: How often a text's bytes may become tokens or bytes. T5's, with a character map, may become 460.
MOST_GROWTH = 1024
#: Compatibility forms: U+FDFA, 3 bytes, becomes 33.
_FORMS = {"NFC": 3, "NFD": 4, "NFKC": 12, "NFKD": 12, "BertNormalizer": 12, "Lowercase": 2, "ByteLevel": 2}
_NESTED = ("normalizers", "pretokenizers", "processors", "decoders")
_DEEPEST = 100
_LONGEST_WORD = 10_000  # characters of a word that is split into pieces, which takes their square
_SECONDS, _BYTES_PER_SECOND = 60.0, 10_000
_T = TypeVar("_T")


def excess(values: Mapping[str, Any]) -> str:
    """The complaint about a tokenizer that makes too much of a text, as the end of a sentence on it; "" for none."""
    try:
        growth = prod(_growth(part) for part in _parts(values.get("normalizer"), values.get("pre_tokenizer")))
        growth *= prod(_copies(part) for part in _parts(values.get("post_processor")))
        decoded = prod(_growth(part) for part in _parts(values.get("decoder")))
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError):
        return ""  # the library refuses it
    except RecursionError:
        return "is nested too deeply"
    if max(growth, decoded) > MOST_GROWTH:
        return f"makes {max(growth, decoded):.0g} bytes or tokens of one; the limit is {MOST_GROWTH}"
    model = values.get("model")
    longest = model.get("max_input_chars_per_word") if isinstance(model, Mapping) else None
    if isinstance(longest, int) and longest > _LONGEST_WORD:
        return f"has a max_input_chars_per_word of {longest}; the limit is {_LONGEST_WORD}"
    return ""


def watched(work: Callable[[], _T], size: int, on_timeout: Callable[[float], Exception]) -> _T:
    """Runs `work` and returns its result, unless it takes longer than any tokenizer needs.

    It must release Python's lock, as `Tokenizer.encode_batch` does. If it takes too long it is left behind, and goes
    on in its thread until the process ends.

    Args:
        work: Encodes texts.
        size: Their characters; it may take a minute, and a second for every 10,000.
        on_timeout: Makes the error of the seconds it had.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # panics of the library are not `Exception`s
            errors.append(error)

    seconds = _SECONDS + size / _BYTES_PER_SECOND
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise on_timeout(seconds)
    return results[0]


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises `ValueError` if it has a key twice, of which another reader may take the other one."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("it has a key twice")
    return values


def _parts(*values: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """Normalizers and the like; those of a sequence one by one."""
    if depth > _DEEPEST:
        raise RecursionError
    for value in values:
        if isinstance(value, Mapping):
            yield value
            for key in _NESTED:
                inner = value.get(key)
                yield from _parts(*(inner if isinstance(inner, list) else ()), depth=depth + 1)


def _growth(part: Mapping[str, Any]) -> float:
    """Into how many bytes one byte of a text can become."""
    kind = part.get("type")
    if kind == "Replace":
        pattern, content = part["pattern"], len(part["content"].encode())
        least = len(pattern["String"].encode()) if "String" in pattern else 0
        return max(1, ceil(content / least)) if least else 1 + content  # an expression may find the empty text
    if kind == "Prepend":
        return 1 + len(part["prepend"].encode())
    if kind == "Metaspace":
        return 1 + 2 * len(str(part.get("replacement", "▁")).encode())
    if kind == "Precompiled":
        return _longest_entry(part["precompiled_charsmap"])
    return _FORMS.get(str(kind), 1)


def _longest_entry(table: str) -> int:
    """Bytes of the longest text in sentencepiece's map: the trie's size (4 bytes), the trie, texts that end with 0."""
    try:
        content = base64.b64decode(table, validate=True)
    except binascii.Error as error:
        raise ValueError from error
    return max(1, *map(len, content[4 + int.from_bytes(content[:4], "little") :].split(b"\0")))


def _copies(part: Mapping[str, Any]) -> int:
    """How often a template repeats a text's tokens."""
    pieces = part.get("single")
    return max(1, sum("Sequence" in piece for piece in pieces)) if isinstance(pieces, list) else 1
