"""Reads a corpus file record by record; only a JSON list is read whole."""

from __future__ import annotations

import codecs
import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from seap_export.common.json_file import MAX_JSON_BYTES
from seap_export.errors import InputError, MissingInput

#: The longest line, and the longest plain text, that is read into memory (16 MiB).
MAX_LINE_BYTES = 16 * 2**20
_PARQUET_BATCH_ROWS = 256
_SPLIT_LIST = "write one JSON object per line, as jq -c '.[]' does"


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a corpus file, in the order of the file.

    JSONL gives its objects, a JSON list its entries, Parquet its rows, and CSV its rows by the names in the first one.
    Plain text gives `{"text": ...}`: texts are separated by blank lines; in a file without a blank line between two
    texts, each line is a text.
    """
    check_corpus(path)
    return _refuse_empty(path, _READERS[path.suffix.lower()](path))


def place_of(path: Path, number: int) -> str:
    """Where the record with this number stands, for messages: its line in JSONL, where blank lines are no records."""
    filled = _filled_lines(path) if _READERS[path.suffix.lower()] is _read_jsonl else iter(())
    for count, (line, text) in enumerate(filled, start=1):
        if text.lstrip().startswith("["):
            break  # of a JSON list
        if count == number:
            return f"line {line}"
    return f"record {number}"


def check_corpus(path: Path) -> None:
    """Refuses a path that cannot be a corpus, without reading the file."""
    # os.path, since Path.exists raises on a folder without permission and on a NUL character
    if not os.path.exists(path):
        raise MissingInput(f"{path}: no such file; give the path of a corpus file")
    if not os.path.isfile(path):
        raise MissingInput(f"{path}: not a file; give the path of a corpus file, not of a folder")
    if path.suffix.lower() not in _READERS:
        raise InputError(f"{path}: unknown kind of corpus '{path.suffix}'; convert it to one of {', '.join(_READERS)}")


def _refuse_empty(path: Path, records: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    is_empty = True
    for record in records:
        is_empty = False
        yield record
    if is_empty:
        raise InputError(f"{path}: the corpus is empty; it needs at least one text")


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    lines = _filled_lines(path)
    first = next(lines, None)
    if first is not None and first[1].lstrip().startswith("["):
        yield from _read_list(path)
        return
    for number, line in chain(() if first is None else (first,), lines):
        yield _parse_object(f"{path}, line {number}", line)


def _read_list(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a JSON list, which is read whole."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise InputError(f"{path}: a JSON list of more than {MAX_JSON_BYTES // 2**20} MiB; {_SPLIT_LIST}")
    try:
        values = json.loads(path.read_text("utf-8-sig"))
        json.dumps(values, ensure_ascii=False).encode()  # half of a surrogate pair cannot be encoded as text
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON list ({error}); {_SPLIT_LIST}") from error
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise InputError(f"{path}, entry {number}: expected a JSON object, not {_json_kind(value)}; {_SPLIT_LIST}")
        yield value


def _parse_object(where: str, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
        if "\\ud" in line.lower():  # half of a surrogate pair is valid JSON, but cannot be encoded as text
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at column {error.colno}"
        raise InputError(f"{where}: not JSON ({reason}); write one JSON object per line") from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # invalid UTF-8, a number of thousands of digits, or too deep nesting
        raise InputError(f"{where}: not readable as JSON ({error}); correct or drop the line") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a JSON object, not {_json_kind(value)}; write one JSON object per line")
    return value


def _json_kind(value: object) -> str:
    kinds = {list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable Parquet file ({reason}); download or create it again") from error


def _read_table(path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = _Lines(path)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] = []
    try:
        for row in rows:
            lines.size = 0
            if not names:
                names = _checked_names(path, row)
                others = [mark for mark in "\t;," if mark != delimiter and mark in names[0]]
                if others and len(names) == 1:
                    raise InputError(
                        f"{path}: its columns are separated by {others[0]!r}; save it with commas, or with tabs as "
                        ".tsv"
                    )
            elif row and len(row) != len(names):
                raise InputError(
                    f"{path}, line {rows.line_num}: {len(row)} fields, but the first row names {len(names)}; put a "
                    "text that contains a separator into double quotes"
                )
            elif row:
                yield dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise InputError(
            f"{path}, line {rows.line_num}: not readable as a table ({error}); put a text that contains a separator, "
            "a quote or a line end into double quotes"
        ) from error


class _Lines:
    """The lines of a table, with their line ends; one row may have several."""

    def __init__(self, path: Path) -> None:
        self.size, self._path, self._lines = 0, path, _lines(path)

    def __iter__(self) -> Iterator[str]:
        for number, line in self._lines:
            self.size += len(line)
            if self.size > MAX_LINE_BYTES:
                raise InputError(f"{self._path}, line {number}: {_too_long('row')}; is a quote missing before it?")
            yield line + "\n"


def _checked_names(path: Path, row: list[str]) -> list[str]:
    twice = [name for index, name in enumerate(row) if name in row[:index]]
    if twice or not row:
        reason = f"names {twice[0]!r} twice" if twice else "is empty"
        raise InputError(f"{path}: the first row {reason}; it must give each column a name of its own")
    return row


def _read_text(path: Path) -> Iterator[dict[str, Any]]:
    has_blocks = _has_separator(path)
    block: list[str] = []
    size = 0
    for number, line in _lines(path):
        is_blank = not line.strip()
        if not is_blank:
            block.append(line)
            size += len(line) + 1
            if size > MAX_LINE_BYTES + 1:
                raise InputError(f"{path}, line {number}: {_too_long('text')}; separate texts by blank lines")
        if block and (is_blank or not has_blocks):
            yield {"text": "\n".join(block)}
            block, size = [], 0
    if block:
        yield {"text": "\n".join(block)}


def _has_separator(path: Path) -> bool:
    """Whether there is a blank line between two lines of text; blank lines at either end do not count."""
    has_text = has_blank = False
    for _, line in _lines(path):
        if not line.strip():
            has_blank = has_text
        elif has_blank:
            return True
        else:
            has_text = True
    return False


def _filled_lines(path: Path) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in _lines(path) if line.strip())


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line, without its line end and without a byte order mark."""
    number = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 2):  # room for a line end
                number += 1
                yield number, _decode(f"{path}, line {number}", line, is_first=number == 1)
    except OSError as error:
        raise MissingInput(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from error


def _decode(where: str, line: bytes, *, is_first: bool) -> str:
    content = line.removesuffix(b"\n").removesuffix(b"\r")
    if is_first:
        content = content.removeprefix(codecs.BOM_UTF8)
    if len(content) > MAX_LINE_BYTES:
        raise InputError(f"{where}: {_too_long('line')}; split it into shorter texts")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8; save the file as UTF-8 text") from error
    if "\0" in text:  # UTF-16 without a byte order mark, or a binary file
        raise InputError(f"{where}: contains a NUL character; save the file as UTF-8 text")
    return text


def _too_long(what: str) -> str:
    return f"a {what} longer than {MAX_LINE_BYTES // 2**20} MiB"


_READERS: Mapping[str, Callable[[Path], Iterator[dict[str, Any]]]] = MappingProxyType(
    {
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
        ".json": _read_jsonl,
        ".parquet": _read_parquet,
        ".csv": partial(_read_table, delimiter=","),
        ".tsv": partial(_read_table, delimiter="\t"),
        ".txt": _read_text,
        ".md": _read_text,
    }
)
#: The suffixes of corpus files, in lower case.
CORPUS_SUFFIXES = tuple(_READERS)
