"""TOML files that users write: every complaint names the file, the line and the key."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.errors import UsageError

#: 16 KiB: the parser's memory grows with the square of a long dotted key.
_MAX_BYTES = 16 * 2**10
_MANY_DIGITS = re.compile(r"[0-9A-Fa-f_]{16}")
_POSITION = re.compile(r" \(at line (\d+), column \d+\)")


@dataclass(frozen=True)
class TomlFile:
    """A TOML file and where its keys stand.

    Attributes:
        values: The parsed text.
    """

    name: str
    text: str
    values: dict[str, Any]

    def error(self, key: str, problem: str) -> UsageError:
        """The error to raise for a key, such as `sparsity.k`; it names the file and the line."""
        return UsageError(f"{self.name}:{self.line(key)}: {key}: {problem}")

    def line(self, key: str) -> int:
        """The line of a key, or of the innermost table around it that has a line."""
        wanted, table, nearest, depth = _parts(key), [], 1, 0
        for number, line in enumerate(self.text.splitlines(), start=1):
            header = re.match(r"\s*\[+([^\[\]]+)\]", line)
            if header:
                table = path = _parts(header[1])
            elif "=" in line and not line.lstrip().startswith("#"):
                path = [*table, *_parts(line.partition("=")[0])]
            else:
                continue
            if len(path) > depth and path == wanted[: len(path)]:
                nearest, depth = number, len(path)
        return nearest

    def refuse_unknown(self, known: Iterable[str], table: str = "") -> None:
        """Refuses keys of a table, or of the whole file, that are not among the known ones.

        Raises:
            UsageError: There is such a key.
        """
        names, prefix = list(known), f"{table}." if table else ""
        for key in self.values.get(table, {}) if table else self.values:
            if key not in names:
                raise self.error(prefix + key, unknown_key(key, names))


def read_toml(path: Path) -> TomlFile:
    """Reads a file.

    Raises:
        UsageError: It cannot be read, or is not TOML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise UsageError(f"{path}: longer than {_MAX_BYTES // 2**10} KiB; give a shorter TOML file")
        return parse_toml(str(path), content.decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give the path of a TOML file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text; save it as UTF-8") from error


def parse_toml(name: str, text: str) -> TomlFile:
    """Parses the text of a file of this name.

    Raises:
        UsageError: It is not TOML.
    """
    try:
        return TomlFile(name, text, toml_values(text))
    except (ValueError, RecursionError) as error:
        position = _POSITION.search(str(error))
        line = position[1] if position else len(text.splitlines())  # "at end of document"
        raise UsageError(f"{name}:{line}: not valid TOML ({_POSITION.sub('', str(error))}); correct it") from error


def toml_values(text: str) -> dict[str, Any]:
    """Parses TOML.

    Raises:
        ValueError: It is not TOML, whose whole numbers have at most 64 bits.
        RecursionError: It is nested too deeply.
    """
    try:
        values = tomllib.loads(text)
        if _has_64_bits(values):
            return values
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # a number of thousands of digits
        pass
    line = next((number for number, line in enumerate(text.splitlines(), 1) if _MANY_DIGITS.search(line)), 1)
    raise ValueError(f"a whole number of more than 64 bits (at line {line}, column 1)")


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The complaint about an unknown key, with the key that was probably meant."""
    names = list(known)
    close = difflib.get_close_matches(key, names, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"unknown key; {hint}Known keys: {', '.join(names)}" if hint else f"unknown key; use {either(names)}"


def either(names: Iterable[str]) -> str:
    """The names as an enumeration, `a, b or c`."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _has_64_bits(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(_has_64_bits, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def _parts(key: str) -> list[str]:
    return [part.strip().strip("\"'") for part in key.split(".")]
