"""Kinds of values that may be given in several forms: their types are checked, and each is brought to one form."""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin

_In = TypeVar("_In", contravariant=True)
_Out = TypeVar("_Out", covariant=True)
_T = TypeVar("_T")
_PathLike = str | os.PathLike[str]
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


class Unknown(ValueError):
    """A value is not one of the choices, which the text lists."""


class Given(Generic[_In, _Out]):
    """The type of an option that a caller gives as `_In`, and that is read as `_Out`; type checkers see both."""

    def __get__(self, instance: object, owner: Any = None) -> _Out:
        """The value as it is read."""
        raise NotImplementedError

    def __set__(self, instance: object, value: _In) -> None:
        """The value as it is given."""
        raise NotImplementedError

    @classmethod
    def read(cls, value: object) -> _Out:
        """The one form of a value.

        Raises:
            Mismatch: It has another type.
        """
        raise NotImplementedError


class Several(Given[_T | Sequence[_T], tuple[_T, ...]], Generic[_T]):
    """One value, or a list of them."""


class Fractions(Several[float]):
    """Fractions of at least 0 and below 1, which the command line also takes as percentages."""


class FilePath(Given[_PathLike, Path]):
    """A path, in which `~` stands for the home folder."""

    @classmethod
    def read(cls, value: object) -> Path:
        if not isinstance(value, str | os.PathLike):
            raise Mismatch("a path")
        return Path(os.path.expanduser(os.fsdecode(value)))


class FilePathOrNone(Given[_PathLike | None, Path | None]):
    """A path or None."""

    @classmethod
    def read(cls, value: object) -> Path | None:
        return None if value is None else FilePath.read(value)


class CorpusPathOrNone(FilePathOrNone):
    """The path of a file that must be there, or None."""


class FilePaths(Given[_PathLike | Sequence[_PathLike], tuple[Path, ...]]):
    """One path, or a list of them."""

    @classmethod
    def read(cls, value: object) -> tuple[Path, ...]:
        return _tuple(FilePath, value)


class ShareOrNone(Given[float | None, float | None]):
    """A number from 0 to 1, or None."""

    @classmethod
    def read(cls, value: object) -> float | None:
        share: float | None = converted(float | None, value)
        return share


class PrecisionOrNone(Given[str | None, str | None]):
    """The name of a precision of ONNX weights, such as "int8" or "mixed-3.5", or None."""

    names = ("fp32", "fp16", "bf16", "int8", "int4", "w8a8", "w4a8")
    #: Of matrices with bits of their own; the average follows.
    mixed = "mixed-"

    @classmethod
    def read(cls, value: object) -> str | None:
        if value is not None and not isinstance(value, str):
            raise Mismatch(f"one of {', '.join(map(repr, cls.names))}, or None")
        if value is not None and value not in cls.names and not value.startswith(cls.mixed):
            raise Unknown(", ".join((*cls.names, f"{cls.mixed}BITS")))
        return value


class NameOrPath(Given[_PathLike, str]):
    """Such as a model: a folder, a .gguf file or a hub id."""

    @classmethod
    def read(cls, value: object) -> str:
        if not isinstance(value, str | os.PathLike):
            raise Mismatch("a name or a path")
        return os.fsdecode(value)


class NameOrPathOrNone(Given[_PathLike | None, str | None]):
    """A name, a path or None."""

    @classmethod
    def read(cls, value: object) -> str | None:
        return None if value is None else NameOrPath.read(value)


class Weights(Given[Mapping[str, Any] | Sequence[str], tuple[str, ...]]):
    """By name, such as `{"a": 2}`, or `{"both": {"a": 2, "b": 1}}`; read as texts, such as `a=2` or `both=a:2,b:1`."""

    @classmethod
    def read(cls, value: object) -> tuple[str, ...]:
        if isinstance(value, Mapping):
            return tuple(f"{name}={joined(inner)}" for name, inner in value.items())
        values = (value,) if isinstance(value, str) else value
        if not isinstance(values, list | tuple) or not all(isinstance(text, str) for text in values):
            raise Mismatch("a mapping")
        return tuple(values)


def joined(value: object) -> str:
    """`{"a": 2, "b": 1}` as `a:2,b:1`."""
    return ",".join(f"{key}:{inner}" for key, inner in value.items()) if isinstance(value, Mapping) else str(value)


def is_given(hint: Any, kind: type[Given[Any, Any]]) -> bool:
    return issubclass(of, kind) if isinstance(of := get_origin(hint) or hint, type) else False


def members_of(hint: Any) -> tuple[Any, ...]:
    """The types of a union but None, or the type itself."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(member for member in members if member is not NoneType)


def converted(hint: Any, value: Any) -> Any:
    """A value in the form of its type: numpy's numbers as Python's, several values as a tuple, and as `Given` says."""
    if is_given(hint, Several):
        return _tuple(get_args(hint)[0] if get_args(hint) else float, value)
    if is_given(hint, Given):
        return hint.read(value)
    if get_origin(hint) in (Union, UnionType):
        return _of_union(get_args(hint), value)
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if type(value) not in map(type, choices):
            raise Mismatch(f"one of {', '.join(map(repr, choices))}")
        if value not in choices:
            raise Unknown(", ".join(map(str, choices)))
        return value
    kinds = {int: numbers.Integral, float: numbers.Real}  # numpy's as well
    if not isinstance(value, kinds.get(hint, hint)) or (isinstance(value, bool) and hint is not bool):
        raise Mismatch(_WORDS[hint][0])
    return None if value is None else hint(value)


def _of_union(members: Sequence[Any], value: Any) -> Any:
    mismatches = []
    for member in members:
        try:
            return converted(member, value)
        except Mismatch as error:
            mismatches.append(str(error))
    raise Mismatch(" or ".join(word for word in mismatches if word != "None"))


def _tuple(hint: Any, value: Any) -> tuple[Any, ...]:
    is_list = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    try:
        return tuple(converted(hint, inner) for inner in (value if is_list else (value,)))
    except Mismatch as error:
        words = next((pair[1] for pair in _WORDS.values() if pair[0] == str(error)), "such values")
        raise Mismatch(f"{error} or a list of {words}") from None
