"""Arguments of the API: their types, which are checked and brought to one form, and their defaults."""

from __future__ import annotations

import inspect
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from seap_export.errors import UsageError

_T = TypeVar("_T")
#: What a type is called in messages, alone and in a list.
_WORDS: Mapping[type, tuple[str, str]] = {
    bool: ("True or False", "truth values"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a string", "strings"),
    NoneType: ("None", "None"),
}


class Mismatch(TypeError):
    """A value has the wrong type; the text says what is expected."""


class _Unknown(ValueError):
    """A value is not one of the choices, which the text lists."""


def _path(value: object) -> Path:
    if not isinstance(value, str | os.PathLike):
        raise Mismatch("a path")
    return Path(os.path.expanduser(os.fsdecode(value)))


def _name_or_path(value: object) -> str:
    if not isinstance(value, str | os.PathLike):
        raise Mismatch("a name or a path")
    return os.fsdecode(value)


def _pairs(value: object) -> tuple[str, ...]:
    """`{"a": 2}` as `a=2`; strings stay as they are."""
    if isinstance(value, Mapping):
        return tuple(f"{name}={joined(inner)}" for name, inner in value.items())
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(text, str) for text in values):
        raise Mismatch("a mapping")
    return tuple(values)


def joined(value: object) -> str:
    """`{"a": 2, "b": 1}` as `a:2,b:1`."""
    return ",".join(f"{key}:{inner}" for key, inner in value.items()) if isinstance(value, Mapping) else str(value)


#: One value, or a list of them.
Several = Union[_T, Sequence[_T]]  # noqa: UP007 - generic
FilePath = Annotated[str | os.PathLike[str], _path]
#: Such as a model: a folder, a .gguf file or a hub id.
NameOrPath = Annotated[str | os.PathLike[str], _name_or_path]
Provider = Literal["cpu", "cuda"]
#: The weight of each task, such as `{"a": 2}`.
Weights = Annotated[Mapping[str, float] | Sequence[str], _pairs]
#: The tasks of each mixture and their weights, such as `{"both": {"a": 2, "b": 1}}`.
Mixes = Annotated[Mapping[str, Mapping[str, float] | str] | Sequence[str], _pairs]


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The default of each parameter that has one."""
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def checked(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call in one form: several values as a tuple, paths as `Path`, mappings of weights as texts.

    Args:
        function: What is called; its annotations say what is accepted.
        arguments: All of its arguments, by name.

    Raises:
        TypeError: An argument has another type.
        UsageError: It is none of the values that there are.
    """
    # The result's type may need libraries that are slow to import.
    annotations = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
    hints = get_type_hints(SimpleNamespace(__annotations__=annotations), function.__globals__, include_extras=True)
    converted = {}
    for name, value in arguments.items():
        try:
            converted[name] = _converted(hints[name], value)
        except Mismatch as error:
            raise TypeError(f"{function.__name__}(): {name} must be {error}, not {value!r:.60}") from None
        except _Unknown as error:
            raise UsageError(f"{name} {value!r:.40} is unknown; use one of {error}") from None
    return converted


def _converted(hint: Any, value: Any) -> Any:
    if get_origin(hint) is Annotated:
        return hint.__metadata__[0](value)
    if get_origin(hint) in (Union, UnionType):
        return _of_union(get_args(hint), value)
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if type(value) not in map(type, choices):
            raise Mismatch(f"one of {', '.join(map(repr, choices))}")
        if value not in choices:
            raise _Unknown(", ".join(map(str, choices)))
        return value
    kinds = {int: numbers.Integral, float: numbers.Real}  # numpy's as well
    if not isinstance(value, kinds.get(hint, hint)) or (isinstance(value, bool) and hint is not bool):
        raise Mismatch(_WORDS[hint][0])
    return None if value is None else hint(value)


def _of_union(members: Sequence[Any], value: Any) -> Any:
    several = next((get_args(member)[0] for member in members if get_origin(member) is Sequence), None)
    if several is not None:
        return _tuple(several, value)
    mismatches = []
    for member in members:
        try:
            return _converted(member, value)
        except Mismatch as error:
            mismatches.append(str(error))
    raise Mismatch(" or ".join(word for word in mismatches if word != "None"))


def _tuple(hint: Any, value: Any) -> tuple[Any, ...]:
    is_list = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    try:
        return tuple(_converted(hint, inner) for inner in (value if is_list else (value,)))
    except Mismatch as error:
        words = next((pair[1] for pair in _WORDS.values() if pair[0] == str(error)), "such values")
        raise Mismatch(f"{error} or a list of {words}") from None
