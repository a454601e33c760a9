"""Templates that turn the fields of a record into a text.

`{field}`, `{a.b}`, `{a[0]}` and `{a[key]}` are looked up among the items of the record, never among
attributes of Python objects, so an untrusted template can read nothing but the record. `{{` and `}}`
stand for braces.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from string import Formatter
from typing import Any

from seap_export.errors import InputError

_PATH = re.compile(r"[^.\[\]{}]+(?:\.[^.\[\]{}]+|\[[^\[\]{}]+\])*")
_PART = re.compile(r"\[([^\]]+)\]|([^.\[\]]+)")
#: An index into a list; longer digit strings cannot be an index and are slow to convert.
_INDEX = re.compile(r"[0-9]{1,9}")


def render(template: str, record: Mapping[str, Any]) -> str:
    """The template with each `{field}` replaced by its value in the record."""
    return "".join(
        literal + ("" if path is None else _as_text(path, look_up(path, record)))
        for literal, path in _pieces(template)
    )


def look_up(path: str, record: Mapping[str, Any]) -> Any:
    """The value at a field path such as `answer`, `choices.text` or `choices[text][0]`; it may be None."""
    parts, value = _parts(path), record
    for part in (path,) if path in record else parts:  # tables made flat have names such as answer.value
        try:
            value = _item(value, part)
        except LookupError as error:
            raise InputError(f"field {path!r} is missing; {_what_is_there(value)}") from error
    return value


def stripped(value: Any) -> Any:
    """A record, or a value in it, whose texts have no white space around them."""
    if isinstance(value, Mapping):
        return {key: stripped(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [stripped(inner) for inner in value]
    return value.strip() if isinstance(value, str) else value


def check_template(template: str) -> None:
    """Refuses a malformed template before any record is read."""
    _pieces(template)


def fields_of(template: str) -> tuple[str, ...]:
    """The paths of the fields of a template, each once, in order; raises `InputError` if it is malformed."""
    return tuple(dict.fromkeys(path for _, path in _pieces(template) if path is not None))


def check_path(path: str) -> None:
    """Refuses a malformed field path before any record is read."""
    _parts(path)


def is_index(text: str) -> bool:
    """Whether the text is a whole number from 0 that can be an index: up to nine ASCII digits."""
    return _INDEX.fullmatch(text) is not None


@lru_cache(maxsize=64)
def _pieces(template: str) -> tuple[tuple[str, str | None], ...]:
    """The template as pairs of a literal and the path of the field after it, None where none follows."""
    try:
        parsed = tuple(Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"template {template!r}: {error}; write {{{{ and }}}} for literal braces") from error
    for _, path, format_spec, conversion in parsed:
        if format_spec or conversion:
            raise InputError(f"template {template!r}: formats and conversions are not supported; write {{{path}}}")
        if path is not None:
            _parts(path)
    return tuple((literal, path) for literal, path, _, _ in parsed)


@lru_cache(maxsize=64)
def _parts(path: str) -> tuple[str, ...]:
    if not _PATH.fullmatch(path):
        raise InputError(f"field {path!r} is malformed; write it as field, a.b, a[0] or a[key]")
    return tuple(in_brackets or plain for in_brackets, plain in _PART.findall(path))


def _item(value: object, part: str) -> Any:
    if isinstance(value, Mapping):
        return value[part]
    if isinstance(value, (list, tuple)) and is_index(part):
        return value[int(part)]
    raise LookupError(part)


def _what_is_there(value: object) -> str:
    if isinstance(value, Mapping):
        return f"fields there: {', '.join(repr(str(key)) for key in value) or 'none'}"
    if isinstance(value, (list, tuple)):
        return f"the list there has {len(value)} items, numbered from 0"
    return f"the value there is {value!r:.40}, which has no fields"


def _as_text(path: str, value: object) -> str:
    if value is None:
        raise InputError(f"field {path!r} is null; drop the record or give it a value")
    if isinstance(value, float) and not math.isfinite(value):  # how many tables represent a missing value
        raise InputError(f"field {path!r} is {value}; drop the record or give it a value")
    if isinstance(value, (Mapping, list, tuple, bytes)):
        raise InputError(f"field {path!r} is neither a text nor a number; choose one of its items or another field")
    return str(value)
