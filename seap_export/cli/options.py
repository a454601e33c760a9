"""Options of commands, made from the fields that declare them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, Literal, get_args, get_origin

import click

from converters.form_options import FormOptions
from seap_export.cli.console import Console
from seap_export.cli.groups import Option, option
from seap_export.cli.values import IntChoice, NameOrPathType, NumberOrWord, PathType, PrecisionChoice, Ratio
from seap_export.cli.window import WIDE
from seap_export.common.options import Declared, declared, defaults_of
from seap_export.common.values import (
    CorpusPathOrNone,
    FilePath,
    FilePathOrNone,
    FilePaths,
    Fractions,
    NameOrPath,
    NameOrPathOrNone,
    PrecisionOrNone,
    Several,
    ShareOrNone,
    Weights,
    is_given,
    members_of,
)
from seap_export.pipeline.request.tasks import SupportOrNone, Tasks, TokensKept

Command = Callable[..., Any]
#: The options of a graph that --help does not show.
RARE_FORM = tuple(name for name in defaults_of(FormOptions) if name not in ("provider", "precision", "logits"))
#: What the command line makes of each kind of value; the first that fits counts.
_TYPES: tuple[tuple[type[Any], click.ParamType], ...] = (
    (CorpusPathOrNone, PathType(exists=True, dir_okay=False)),
    (FilePath, PathType()),
    (FilePathOrNone, PathType()),
    (FilePaths, PathType()),
    (Fractions, Ratio()),
    (NameOrPath, NameOrPathType()),
    (NameOrPathOrNone, NameOrPathType()),
    (PrecisionOrNone, PrecisionChoice()),
    (SupportOrNone, NameOrPathType()),
    (ShareOrNone, click.FloatRange(0.0, 1.0)),
    (Tasks, NameOrPathType()),
    (TokensKept, NumberOrWord()),
    (Weights, click.STRING),
)
_REPEATABLE = (FilePaths, Several, Tasks, Weights)


def options_of(options: type, *names: str) -> tuple[Command, ...]:
    """Options of a class by the names of their fields; without names all of them."""
    known = [each.name for each in declared(options) if not each.about.of_python]
    return tuple(option_of(options, name) for name in names or known)


def option_of(options: type, name: str, **changes: Any) -> Command:
    each = next(each for each in declared(options) if each.name == name)
    about = replace(each.about, **changes)
    spelled = f"--{(about.name or name).replace('_', '-')}"
    if about.is_argument:
        return click.argument(name, type=_type(each), metavar=about.metavar or None)
    is_flag, is_repeatable = bool in members_of(each.hint), any(is_given(each.hint, kind) for kind in _REPEATABLE)
    default = each.default
    is_shown = not (is_flag or each.is_required or about.unset) and default not in (None, ())
    return click.option(
        f"{spelled}/--{about.off or f'no-{spelled[2:]}'}" if is_flag and default is not False else spelled,
        name,
        cls=Option,
        title=about.title,
        is_rare=about.rare,
        in_file=not about.of_a_run,
        required=each.is_required,
        **({} if each.is_required else {"default": [default] if is_shown and is_repeatable else default}),
        show_default=is_shown,
        **({"is_flag": True} if is_flag else {"type": _type(each), "multiple": is_repeatable}),
        metavar=about.metavar or ("N" if int in _inner(each.hint) and not is_flag else None),
        help=f"{about.help}  [default: {about.unset}]" if about.unset else about.help,
    )


def _inner(hint: Any) -> tuple[Any, ...]:
    """The types of a field's value, or of each value if it takes several."""
    return get_args(hint) if is_given(hint, Several) and get_args(hint) else members_of(hint)


def _type(each: Declared) -> click.ParamType:
    for kind, click_type in _TYPES:
        if is_given(each.hint, kind):
            return click_type
    inner = _inner(each.hint)
    if get_origin(inner[0]) is Literal:
        choices = get_args(inner[0])
        return click.Choice(choices) if isinstance(choices[0], str) else IntChoice(map(str, choices))
    if inner == (int,):
        return click.INT if each.about.least is None else click.IntRange(min=each.about.least)
    return click.FLOAT if inner == (float,) else click.STRING


wide_option = option(
    "--wide",
    is_flag=True,
    expose_value=False,
    callback=lambda ctx, _, is_given: ctx.meta.update({WIDE: is_given}),
    help="Show all columns of the tables, not only those that the window has room for.",
)


def output_options(command: Command) -> Command:
    """Adds --json and --quiet, and hands the command a `Console` as its first argument."""

    @option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    @option("--quiet", "-q", is_flag=True, help="Print no progress and no table.")
    @wraps(command)
    def wrapped(*args: Any, as_json: bool, quiet: bool, **kwargs: Any) -> Any:
        if quiet:
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # downloads would show progress bars otherwise
        return command(Console(quiet, as_json), *args, **kwargs)

    return wrapped
