"""The small files of a format: one mapping of names to contents serves both writing and comparing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from seap_export.common.checksums import LEFT_BY_OTHERS, SUMS
from seap_export.common.json_file import read_json, write_json
from seap_export.errors import InputError
from seap_export.pruning.rounding.note import ROUNDING_FILE

#: Bytes as they are, JSON values, or None: there is no such file.
Content = bytes | Mapping[str, Any] | None
_MISSING = object()
#: What lies in a folder of a format beside the format's own files, and no runtime reads.
_BESIDE = frozenset({SUMS, ROUNDING_FILE, *LEFT_BY_OTHERS})


def copies(model_folder: Path, *names: str) -> dict[str, Content]:
    """The bytes of a model folder's files by name; None: it has no such file."""
    paths = {name: model_folder / name for name in names}
    return {name: path.read_bytes() if path.is_file() else None for name, path in paths.items()}


def in_order(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same JSON values with all keys in alphabetical order."""
    ordered: dict[str, Any] = json.loads(json.dumps(values, sort_keys=True))
    return ordered


def write_files(folder: Path, files: Mapping[str, Content]) -> None:
    """Writes the files of a format into an existing folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        elif content is not None:
            write_json(folder / name, content, indent=2)


def foreign_files(folder: Path, names: Collection[str]) -> Iterator[str]:
    """The files in a folder whose names are not among `names`, one line each: a runtime may read them, too.

    What Python keeps of code that it has run does not count.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_beside = name.parts[0] in _BESIDE or "__pycache__" in name.parts
        if not path.is_dir() and name.as_posix() not in names and not is_beside:
            yield f"{path}: is not written with the model; remove it"


def json_difference(wanted: Path, path: Path) -> Iterator[str]:
    """How a file of JSON differs from another in its values, in a line."""
    try:
        stored = read_json(path, "export again")
    except InputError as error:
        yield str(error)
        return
    keys = ", ".join(f"'{key}'" for key in _differing(json.loads(wanted.read_bytes()), stored))
    if keys:
        yield f"{path}: {keys:.200} differ from what the model's folder says; export again"
    if twice := ", ".join(f"'{key}'" for key in _given_twice(path.read_text("utf-8"))):
        yield f"{path}: {twice:.200} are given twice, of which runtimes may take either; export again"


def _given_twice(text: str) -> list[str]:
    """The keys that an object in a JSON text has more than once."""
    found: list[str] = []

    def noted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return dict(pairs)

    json.loads(text, object_pairs_hook=noted)
    return found


def _differing(wanted: Any, stored: Any, key: str = "") -> Iterator[str]:
    """The keys whose values differ, such as `model.vocab_size`."""
    if isinstance(wanted, dict) and isinstance(stored, dict):
        for name in sorted(wanted.keys() | stored.keys()):
            inner = wanted.get(name, _MISSING), stored.get(name, _MISSING)
            yield from _differing(*inner, f"{key}.{name}" if key else name)
    elif wanted != stored or isinstance(wanted, bool) != isinstance(stored, bool):
        yield key
