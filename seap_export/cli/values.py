"""The types of option values that click does not have, such as ratios and existing paths."""

from __future__ import annotations

import os
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import click

from seap_export.common.values import PrecisionOrNone
from seap_export.errors import refuse_missing


class PathType(click.Path):
    """A path; `~` is expanded if the shell did not, as in `--out=~/pruned`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Converts text to a path, and expands `~`."""
        return Path(os.path.expanduser(os.fsdecode(super().convert(value, param, ctx))))


class ExistingPath(PathType):
    """A path that must be there; every command refuses others with the same words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = super().convert(value, param, ctx)
        refuse_missing(path)
        return path


class IntChoice(click.Choice):
    """A choice of several integers."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return int(super().convert(str(value), param, ctx))


class PrecisionChoice(click.Choice):
    """The name of a precision: one of the usual ones, or with bits for each matrix, such as mixed-3.5."""

    def __init__(self) -> None:
        super().__init__(PrecisionOrNone.names)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """The names, as help shows them."""
        return f"[{'|'.join(PrecisionOrNone.names)}|{PrecisionOrNone.mixed}BITS]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Leaves a name with bits as it is."""
        if isinstance(value, str) and value.startswith(PrecisionOrNone.mixed):
            return value
        return super().convert(value, param, ctx)


class NameOrPathType(click.types.StringParamType):
    """A name or a path, with NAME= before it or not; a path in a settings file is relative to the file."""


class NumberOrWord(click.ParamType):
    """A number or one of some words, as text; in a settings file the number needs no quotes."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Converts a number from a settings file, or text, to text."""
        return str(value)


class Ratio(click.FloatRange):
    """A fraction of at least 0 and below 1, also written as 20%."""

    name = "ratio"

    def __init__(self) -> None:
        super().__init__(min=0.0, max=1.0, max_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Converts text such as `0.2` or `20%` to a fraction."""
        text = str(value).strip()
        number, is_percent = text.removesuffix("%").strip(), text.endswith("%")
        try:
            ratio = float(Decimal(number) / 100 if is_percent else Decimal(number))
        except (InvalidOperation, ValueError):
            remedy = "repeat the option for each ratio" if "," in text else "give a fraction such as 0.2, or 20%"
            self.fail(f"'{value}' is not a number; {remedy}", param, ctx)
        if 0.0 <= ratio < 1.0:
            return ratio
        remedy = f"for {number} percent, give {number}%" if 1.0 < ratio < 100.0 else "give at least 0 and less than 1"
        self.fail(f"{text} is out of range; {remedy}", param, ctx)
