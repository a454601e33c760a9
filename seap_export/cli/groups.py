"""Groups options under titles in a command's help, which shows the rare ones with --help-all only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import click

Decorator = Callable[..., Any]


class Option(click.Option):
    """An option with the title that it is listed under.

    Attributes:
        title: The title, empty for none.
        is_rare: Whether only --help-all shows it.
        is_setting: Whether it is a setting: it can be given in a --config file or with --set, but not as an option.
        in_file: Whether a --config file may give it.
    """

    def __init__(
        self,
        *args: Any,
        title: str = "",
        is_rare: bool = False,
        in_file: bool = False,
        **attributes: Any,
    ) -> None:
        self.title, self.is_rare, self.is_setting = title, is_rare, False
        self.in_file = in_file
        super().__init__(*args, **attributes)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Makes the command line accept it, unless it is a setting."""
        if not self.is_setting:
            super().add_to_parser(parser, ctx)

    def get_help_extra(self, ctx: click.Context) -> Any:
        """The notes after the help text, without ranges such as `x>=1`, which errors name.

        [required] is left out if a file can give the option.
        """
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        if getattr(ctx.command, "reads_file", False):
            extra.pop("required", None)
        return extra


def option(*names: str, **attributes: Any) -> Decorator:
    """Like `click.option`, but makes an `Option`, which can have a title."""
    return click.option(*names, cls=Option, **attributes)


def number_option(name: str, *more: str, type: Any = int, **attributes: Any) -> Decorator:
    """An option that takes a number; its help comes last of the texts."""
    *names, help = more
    return option(name, *names, type=type, metavar="N", help=help, **attributes)


def _show_all(ctx: click.Context, _: click.Parameter, is_given: bool) -> None:
    if is_given:
        ctx.meta[__name__] = True
        click.echo(ctx.get_help())
        ctx.exit()


_HELP_ALL = click.Option(
    ["--help-all"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_all,
    help="Show the rest of the options too, and exit.",
)


class GroupedCommand(click.Command):
    """A command whose help lists its options under the titles that `titled` gave them; a file may give them, too."""

    reads_file = False

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The parameters; --help-all is among them if --help leaves some out."""
        params = super().get_params(ctx)
        is_short = any(isinstance(param, Option) and (param.is_rare or param.is_setting) for param in params)
        return [*params[:-1], _HELP_ALL, params[-1]] if is_short else params

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuses several values of an option that takes one, of which click would take the last."""
        given = self.make_parser(ctx).parse_args(list(args))[2]
        for param in given:
            takes_one = isinstance(param, click.Option) and not (param.is_flag or param.multiple)
            if takes_one and given.count(param) > 1:
                raise click.UsageError(
                    f"'{param.opts[0]}' is given {given.count(param)} times; run the command once for each value", ctx
                )
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes each title and its options, in the order of the command, with --help last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        settings: list[tuple[str, str]] = []
        title, shows_all = "Options", bool(ctx.meta.get(__name__))
        for param in self.get_params(ctx):
            if isinstance(param, Option) and param.is_setting:
                settings += [_setting_record(param, ctx)] if shows_all else []
            elif isinstance(param, click.Option):
                record = param.get_help_record(ctx)
                title = getattr(param, "title", "") or title
                if record is not None and (shows_all or not getattr(param, "is_rare", False)):
                    groups.setdefault(title, []).append(record)
        if settings:
            groups["Settings, for --set KEY=VALUE or a --config file"] = settings
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def titled(title: str, *options: Decorator) -> Decorator:
    """Adds options that the help lists under a title."""
    return _with(options, title=title)


def rare(*options: Decorator) -> tuple[Decorator, ...]:
    """Marks options as rare: they work as others do, but only --help-all shows them."""
    return tuple(_with((option,), is_rare=True) for option in options)


def with_settings(*options: Decorator) -> Decorator:
    """Options with their own titles; those without one are settings, which are not on the command line."""

    def decorate(command: Decorator) -> Decorator:
        command = _with(options)(command)
        for param in command.__click_params__:  # type: ignore[attr-defined]
            if isinstance(param, Option) and not param.title:
                param.is_setting = param.hidden = True
        return command

    return decorate


def setting_key(param: click.Parameter) -> str:
    """The key of a parameter in a file: its long name, with underscores."""
    return max(param.opts, key=len).lstrip("-").replace("-", "_")


def _setting_record(param: Option, ctx: click.Context) -> tuple[str, str]:
    """The key and the help text of a setting, for the list of settings in the help."""
    shown = copy.copy(param)
    shown.hidden = False
    return setting_key(param), (shown.get_help_record(ctx) or ("", ""))[1]


def _with(options: Sequence[Decorator], **attributes: Any) -> Decorator:
    """Adds the options with these attributes; click keeps parameters at the function until the command is made."""

    def decorate(command: Decorator) -> Decorator:
        before = len(getattr(command, "__click_params__", []))
        for decorator in reversed(options):
            command = decorator(command)
        for added in command.__click_params__[before:]:  # type: ignore[attr-defined]
            vars(added).update(attributes)
        return command

    return decorate
