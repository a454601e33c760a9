"""The costs of operators, filters, tests and methods of chat templates, known before they compute anything.

Each costs at least as much as it can write or visit. What is not named here costs the square of all that it is given,
numbers included, which no method of Python's and no filter of jinja2's exceeds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from string import Formatter
from typing import Any

from seap_export.runtime.limits.budget import CURRENT, STEP, TooMuchWork, flat_weight, weight

#: Filters and methods that look at a list's items or hand them on, and never into them.
_FLAT = frozenset([
    "attr", "copy", "count", "d", "default", "first", "get", "index", "items", "keys", "last", "length", "list",
    "map", "reject", "rejectattr", "reverse", "select", "selectattr", "values",
])  # fmt: skip
#: Filters, and methods of texts and numbers, that write at most a few times what they are given.
_LINEAR = frozenset([
    "abs", "bit_length", "capitalize", "casefold", "dictsort", "e", "encode", "endswith", "escape",
    "filesizeformat", "find", "float", "forceescape", "groupby", "hex", "int", "isalnum", "isalpha", "isascii",
    "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle",
    "isupper", "lower", "lstrip", "max", "min", "partition", "removeprefix", "removesuffix", "rfind", "rindex",
    "rpartition", "rstrip", "safe", "sort", "splitlines", "startswith", "string", "strip", "swapcase", "title",
    "trim", "truncate", "unique", "upper", "urlencode", "wordcount",
])  # fmt: skip
#: Filters and methods that make an object of every character or line, or compare items with one another.
_OBJECTS = frozenset([
    "dictsort", "groupby", "list", "max", "min", "sort", "splitlines", "unique", "wordcount",
])  # fmt: skip
_OBJECT = 32  # units
_COMPARISONS = frozenset([
    "==", "!=", "<", "<=", ">", ">=", "in", "notin", "eq", "ne", "lt", "le", "gt", "ge", "equalto", "lessthan",
    "greaterthan", "sameas",
])  # fmt: skip
_LARGEST_POWER = 4096  # bits


def binary(operator: str, left: Any, right: Any) -> int:
    """Units of `left operator right`, for the arithmetic operators."""
    if operator == "%" and isinstance(left, str | bytes):
        return _formatted(str(left), [right])
    if operator == "*" and _is_text_or_list(left) != _is_text_or_list(right):
        items, times = (left, right) if _is_text_or_list(left) else (right, left)
        return flat_weight(items) * (max(times, 0) if isinstance(times, int) else 1)
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        if left.bit_length() * right > _LARGEST_POWER:
            raise TooMuchWork
        return STEP
    if operator in "+-":
        return flat_weight(left) + flat_weight(right)
    return flat_weight(left) * flat_weight(right)


def compared(left: Any, right: Any) -> int:
    """Units of a comparison, or of looking for one value in the other."""
    if isinstance(left, str | bytes) or isinstance(right, str | bytes):
        return flat_weight(left) + flat_weight(right)
    if not _is_container(left) and not isinstance(right, Mapping):
        return flat_weight(left) + flat_weight(right)
    return _deep([left]) + _deep([right])


def called(name: str, values: Sequence[Any]) -> int:
    """Units of a filter or a method."""
    first, *rest = values
    if name in _OF_TEXTS and isinstance(first, str) and all(isinstance(value, str | int) for value in rest):
        return _OF_TEXTS[name](first, *rest)
    if name == "join":  # a method of the separator, or a filter of the items
        return (1 + flat_weight(first)) * _deep(rest or [""]) + _deep([first])
    if name in ("format", "format_map"):
        return _formatted(str(first), rest)
    multiple = _OBJECT if name in _OBJECTS else 1
    if name in _FLAT:
        return multiple * flat_weight(first) * (1 + _deep(rest))
    if name in _LINEAR:
        return multiple * _deep(values)
    return (_deep(values) + sum(abs(value) for value in values if isinstance(value, int))) ** 2


def tested(name: str, values: Sequence[Any]) -> int:
    """Units of a test: the value and what it is compared with."""
    if name in _COMPARISONS and len(values) > 1:
        return compared(values[0], values[1])
    return sum(map(flat_weight, values))


def _replaced(text: str, *rest: Any) -> int:
    old, new, *_ = [*(value for value in rest if isinstance(value, str)), "", ""]  # in either order: they have names
    growths = (text.count(one) * (len(other) - len(one)) for one, other in ((old, new), (new, old)))
    return len(text) + max(0, *growths)


def _split(text: str, *rest: Any) -> int:
    separator = next((value for value in rest if isinstance(value, str)), "")
    return len(text) + _OBJECT * (1 + (text.count(separator) if separator else len(text) // 8))


def _indented(text: str, *rest: Any) -> int:
    width = max((len(value) if isinstance(value, str) else abs(value) for value in rest), default=4)
    return len(text) + (1 + len(text.splitlines())) * width


_OF_TEXTS: dict[str, Callable[..., int]] = {
    "replace": _replaced, "split": _split, "rsplit": _split, "indent": _indented,
}  # fmt: skip


def _formatted(form: str, values: Sequence[Any]) -> int:
    """Units of a formatted text: every width that it states, and every value as often as it has room for one."""
    if "*" in form or any("{" in (spec or "") for _, _, spec, _ in _fields(form)):  # a width that is a value
        raise TooMuchWork
    widths = sum(min(int(digits), 10**9) if len(digits) < 10 else 10**9 for digits in re.findall(r"\d+", form))
    return (len(form) + widths) * (1 + _deep(values))


def _fields(form: str) -> Iterable[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(Formatter().parse(form))
    except ValueError:  # it is for `%`, or will be refused
        return ()


def _deep(values: Sequence[Any]) -> int:
    return sum(weight(value, CURRENT.get()) for value in values)


def _is_text_or_list(value: Any) -> bool:
    return isinstance(value, str | bytes | Sequence)


def _is_container(value: Any) -> bool:
    return isinstance(value, Mapping | Sequence | Set) and not isinstance(value, str | bytes | range)
