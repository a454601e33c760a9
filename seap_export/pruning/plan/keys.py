"""The keys of a recipe, each declared once: a field whose type, default and range say what a file may hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from seap_export.common.toml_file import either
from seap_export.common.values import Mismatch, Unknown, converted
from seap_export.errors import UsageError

_KEY = "key"


class SettingError(UsageError):
    """A setting of a recipe that is out of range or contradicts another one."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key
        self.problem = problem


@dataclass(frozen=True)
class Key:
    """The rules for a key, apart from its type and default.

    Attributes:
        least: Its least value; None: any finite one.
        idle: Why the key has no effect with some settings, of which this is a function; False or empty: it has one.
        is_free: Whether a recipe keeps its name with any value.
    """

    least: float | None = None
    is_positive: bool = False
    idle: Callable[[Any], str | bool] = lambda settings: False
    is_free: bool = False


def key(default: Any, **about: Any) -> Any:
    """A field that is a key of a recipe file; `about` is of `Key`."""
    return field(default=default, metadata={_KEY: Key(**about)})


def keys_of(settings: type) -> Mapping[str, Key]:
    return {each.name: each.metadata[_KEY] for each in fields(settings) if _KEY in each.metadata}


def check(settings: object, prefix: str = "") -> None:
    """Brings each setting to the form of its type, and checks its choices and its range."""
    cls: type = type(settings)
    keys = keys_of(cls)
    for name, hint in get_type_hints(cls).items():
        value = getattr(settings, name)
        if is_dataclass(hint):
            continue
        try:
            object.__setattr__(settings, name, converted(hint, value))
        except Mismatch as error:
            raise SettingError(prefix + name, f"must be {error}, not {value!r:.40}") from error
        except Unknown as error:
            raise SettingError(prefix + name, f"'{value}' is not known; use {either(get_args(hint))}") from error
        if name in keys and isinstance(value, int | float):
            _check_range(prefix + name, value, keys[name])


def _check_range(name: str, value: float, key: Key) -> None:
    is_out = not math.isfinite(value) or (key.least is not None and value < key.least)
    if is_out or (key.is_positive and value <= 0):
        wanted = "a finite number" if key.least is None else f"at least {key.least:g}"
        shown = f"{value:g}" if isinstance(value, float) else value
        raise SettingError(name, f"{shown} is out of range; give {'a positive number' if key.is_positive else wanted}")
