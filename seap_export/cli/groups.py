"""Groups options under titles in a command's help."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click

__all__ = ["GroupedCommand", "Option", "option", "settings", "titled"]

Decorator = Callable[..., Any]


class Option(click.Option):
    """An option with the title that it is listed under.

    Attributes:
        title: The title, empty for none.
        is_setting: Whether it is a setting: it can be given in a --config file or with --set, but not as an option.
    """

    title = ""
    is_setting = False

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Makes the command line accept it, unless it is a setting."""
        if not self.is_setting:
            super().add_to_parser(parser, ctx)

    def get_help_extra(self, ctx: click.Context) -> Any:
        """What follows the help text; ranges such as `x>=1` are left out, since errors name them."""
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra


#: `click.option` for a command with titles.
option = partial(click.option, cls=Option)


class GroupedCommand(click.Command):
    """A command whose help lists its options under the titles that `titled` gave them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes each title and its options, in the order of the command, with --help last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        title = "Options"
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                title = getattr(param, "title", "") or title
                groups.setdefault(title, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def titled(title: str, *options: Decorator) -> Decorator:
    """The options under a title."""

    def decorate(command: Decorator) -> Decorator:
        command, new = _added(command, options)
        for added in new:
            added.title = title
        return command

    return decorate


def settings(*options: Decorator) -> Decorator:
    """The options as settings, which are neither on the command line nor in the help."""

    def decorate(command: Decorator) -> Decorator:
        command, new = _added(command, options)
        for added in new:
            added.is_setting = added.hidden = True
        return command

    return decorate


def _added(command: Decorator, options: tuple[Decorator, ...]) -> tuple[Decorator, list[Option]]:
    """The command with the options added, and these options; click keeps parameters at the function until the command
    is made."""
    before = len(getattr(command, "__click_params__", []))
    for decorator in reversed(options):
        command = decorator(command)
    return command, command.__click_params__[before:]  # type: ignore[attr-defined]
