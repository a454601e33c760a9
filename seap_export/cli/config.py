"""Settings from a TOML file that describes a whole export, and single settings from the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from seap_export.cli.groups import GroupedCommand, Option, option, setting_key
from seap_export.cli.values import NameOrPathType, NumberOrWord, PathType
from seap_export.common.toml_file import read_toml, toml_values, unknown_key
from seap_export.common.values import joined
from seap_export.errors import UsageError

_FILES = frozenset({".gguf", ".json", ".jsonl", ".md", ".ndjson", ".parquet", ".toml", ".txt"})
_TYPES: Mapping[type, tuple[type | tuple[type, ...], str]] = {
    click.types.BoolParamType: (bool, "true or false"),
    click.types.IntParamType: (int, "a whole number"),
    click.types.FloatParamType: ((int, float), "a number"),
}


class ConfigurableCommand(GroupedCommand):
    """A command with --config and --set; if a setting is given as an option, its error says where it belongs."""

    reads_file = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses arguments; for a setting given as an option, the error says how to give it."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            for key, setting in settings_of(self).items():
                if error.option_name in (*setting.opts, *setting.secondary_opts):
                    example = f"{key}={'false' if error.option_name in setting.secondary_opts else '...'}"
                    problem = f"'{error.option_name}' is a setting; use --set {example} or a --config file"
                    raise click.UsageError(problem, ctx) from error
            raise


def settings_of(command: click.Command) -> dict[str, Option]:
    """The settings of a command that are not options, by their key in a file."""
    return {key: param for key, param in _known(command).items() if isinstance(param, Option) and param.is_setting}


def _known(command: click.Command) -> dict[str, click.Parameter]:
    """All parameters that a --config file may set, by their key in the file."""
    return {setting_key(param): param for param in command.params if getattr(param, "in_file", True)}


def _load(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Uses the values of a file as defaults, so that the command line replaces them."""
    if path is None:
        return
    file, params = read_toml(path), _known(ctx.command)
    file.refuse_unknown(params)
    defaults = {}
    for key, value in file.values.items():
        try:
            defaults[str(params[key].name)] = _value(ctx, params[key], value, path.parent)
        except ValueError as error:
            raise file.error(key, str(error)) from error
    ctx.default_map = {**defaults, **(ctx.default_map or {})}


def _set(ctx: click.Context, _: click.Parameter, lines: tuple[str, ...]) -> None:
    """Applies settings from the command line, which replace those of a file; repeatable settings are added."""
    settings, defaults = settings_of(ctx.command), dict[str, Any]()
    for line in lines:
        for key, value in _parsed(line).items():
            if key not in settings:
                shown = key in _known(ctx.command)
                problem = f"use the option --{key.replace('_', '-')}" if shown else unknown_key(key, settings)
                raise UsageError(f"--set {line}: {problem}")
            setting = settings[key]
            try:
                converted = _value(ctx, setting, value, Path())
            except ValueError as error:
                raise UsageError(f"--set {line}: {error}") from error
            defaults[str(setting.name)] = (
                [*defaults.get(str(setting.name), []), *converted] if setting.multiple else converted
            )
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _parsed(line: str) -> dict[str, Any]:
    """Parses a line of TOML in which strings need no quotes."""
    key, equals, value = line.partition("=")
    for text in (value, json.dumps(value)) if equals else ():
        try:
            return toml_values(f"{key} = {text}")
        except (ValueError, RecursionError):
            continue
    raise UsageError(f"--set {line}: malformed; write KEY=VALUE, such as --set seed=1")


def _value(ctx: click.Context, param: click.Parameter, value: Any, base: Path) -> Any:
    """Converts a value of a TOML file in the folder `base` to the parameter's value."""
    if isinstance(value, dict):
        if not param.multiple or "=" not in (param.metavar or ""):
            raise ValueError("must not be a table")
        value = [f"{name}={joined(inner)}" for name, inner in value.items()]
    values = value if isinstance(value, list) else [value]
    if isinstance(value, list) and not param.multiple:
        raise ValueError("give one value, not a list")
    converted = [_one(param, inner, base) for inner in values]
    try:
        param.type_cast_value(ctx, converted if param.multiple else converted[0])
    except click.BadParameter as error:
        raise ValueError(error.message.rstrip(".")) from error
    return converted if param.multiple else converted[0]


def _one(param: click.Parameter, value: Any, base: Path) -> Any:
    if isinstance(param.type, click.Choice | NumberOrWord) and type(value) is int:
        value = str(value)  # such as block_size = 64
    for kind, (accepted, name) in _TYPES.items():
        if isinstance(param.type, kind):
            if not isinstance(value, accepted) or (isinstance(value, bool) and accepted is not bool):
                raise ValueError(f"must be {name}, not {value!r:.40}")
            return value
    if not isinstance(value, str):
        raise ValueError(f"must be {param.metavar or 'a string'}, not {value!r:.40}")
    if isinstance(param.type, PathType):
        return str(base / Path(value).expanduser())
    if isinstance(param.type, NameOrPathType):
        name, equals, path = value.rpartition("=")
        return f"{name}{equals}{_beside(base, path)}"
    return value


def _beside(base: Path, text: str) -> str:
    """Resolves a path, with a share after it or not, relative to `base`; leaves names, such as a hub model's."""
    source, _, share = text.rpartition(":")
    if _is_number(share):
        return f"{_beside(base, source)}:{share}"
    path = base / Path(text).expanduser()
    is_path = text.startswith((".", "~")) or path.suffix.lower() in _FILES or path.exists()
    return str(path) if is_path else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


config_option = option(
    "--config",
    type=PathType(),
    is_eager=True,
    expose_value=False,
    callback=_load,
    help="A TOML file with MODEL, these options and further settings; options on the command line take precedence.",
)
set_option = option(
    "--set",
    multiple=True,
    metavar="KEY=VALUE",
    is_eager=True,
    expose_value=False,
    callback=_set,
    help="A setting without an option, such as seed=1; --help-all lists them. Repeatable.",
)
