"""The group of commands, and the display of errors."""

from __future__ import annotations

import io
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click

import seap_export
from seap_export.cli.commands.bench import bench_command
from seap_export.cli.commands.calibrate import calibrate_command
from seap_export.cli.commands.chat import chat_command
from seap_export.cli.commands.convert import convert_command
from seap_export.cli.commands.doctor import doctor_command
from seap_export.cli.commands.evaluate import evaluate_command
from seap_export.cli.commands.export import export_command
from seap_export.cli.commands.generate import generate_command
from seap_export.cli.commands.inspect import inspect_command
from seap_export.cli.commands.plan import plan_command
from seap_export.cli.commands.plot import plot_command
from seap_export.cli.commands.predict import predict_command
from seap_export.cli.commands.prune import prune_command
from seap_export.cli.commands.push import push_command
from seap_export.cli.commands.recipes import recipes_command
from seap_export.cli.commands.route import route_command
from seap_export.cli.commands.serve import serve_command
from seap_export.cli.commands.validate import validate_command
from seap_export.cli.console import print_json
from seap_export.cli.errors import as_click_error, is_panic
from seap_export.common.hidden import refuse_hidden

_EPILOG = """\b
Exit codes:
  0  done, all checks passed
  1  internal error
  2  wrong usage: an option, a path that is not there, or a file that would be overwritten
  3  parity failed
  4  quality gate failed
  5  speed gate failed
  6  environment: execution provider, library, disk, hub or noise
  7  an artifact is damaged or incomplete
  8  a model or a corpus cannot be used
130  interrupted (141: the output pipe was closed, 143: terminated)
"""
_SIGPIPE = 13
_HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}
#: The commands, in the order of work.
_COMMANDS = {
    "Make variants": (doctor_command, export_command),
    "Run them": (generate_command, predict_command, chat_command, route_command, serve_command),
    "Check them": (inspect_command, validate_command, evaluate_command, bench_command, plot_command),
    "Publish them": (push_command,),
    "Single steps of an export": (
        recipes_command, calibrate_command, plan_command, prune_command, convert_command
    ),
}  # fmt: skip


class _Commands(click.Group):
    """Shows every error as one line on stderr and an exit code, and with --json as JSON on stdout too."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands in the order of work, instead of click's alphabetical order."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the first sentence of each command's help, whole."""
        for title, commands in _COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(str(each.name), each.get_short_help_str(limit=10_000)) for each in commands])

    def main(self, args: Sequence[str] | None = None, *_: Any, **extra: Any) -> Any:
        """Runs the command line, prints an error if there is one, and exits with its code."""
        _write_utf8()
        arguments = list(sys.argv[1:] if args is None else args) or ["--help"]
        try:
            _refuse_other_bytes(arguments)
            code = super().main(arguments, **{**extra, "prog_name": "seap-export", "standalone_mode": False})
        except (click.ClickException, OSError) as error:
            shown = error if isinstance(error, click.ClickException) else as_click_error(error)
            code = shown.exit_code
            _print_error(shown, _one_line(shown), as_json="--json" in arguments)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; any exception becomes a `click.ClickException`."""
        with _terminable() as terminated:
            try:
                refuse_hidden()
                return super().invoke(ctx)
            except (click.ClickException, click.exceptions.Exit):
                raise
            except BrokenPipeError:
                _forget_stdout()
                sys.exit(128 + _SIGPIPE)
            except BaseException as error:
                if terminated.is_set() and isinstance(error, KeyboardInterrupt):
                    sys.exit(128 + signal.SIGTERM)
                is_shown = isinstance(error, Exception | KeyboardInterrupt) or is_panic(error)
                if not is_shown or os.environ.get("SEAP_EXPORT_TRACEBACK"):
                    raise
                raise as_click_error(error) from error


def _write_utf8() -> None:
    """Writes UTF-8 to files and pipes, also on Windows; on a terminal, unknown characters become question marks."""
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if stream.isatty():
            stream.reconfigure(errors="replace")
        else:
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _refuse_other_bytes(arguments: Sequence[str]) -> None:
    """Raises `click.UsageError` for a name that neither JSON nor safetensors and tokenizers could hold."""
    for argument in arguments:
        if not argument.isascii() and argument.encode("utf-8", "replace").decode() != argument:
            raise click.UsageError(f"'{argument}' is not UTF-8; rename the file or folder, or use a UTF-8 locale")


@contextmanager
def _terminable() -> Iterator[threading.Event]:
    """Makes SIGTERM interrupt the block as SIGINT does, so that it cleans up; yields what tells the two apart.

    Libraries know `KeyboardInterrupt`, whereas some replace a `SystemExit`. A second SIGTERM, which `timeout` may send
    at once, does not interrupt the cleaning.
    """
    terminated = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield terminated
        return

    def interrupt(*_: object) -> None:
        if not terminated.is_set():
            terminated.set()
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, before)


def _forget_stdout() -> None:
    """Keeps the interpreter from complaining about the closed pipe when it flushes at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        see = f"see '{error.ctx.command_path} --help'"
        if isinstance(error, click.MissingParameter):
            _, _, examples = (error.ctx.command.help or "").partition("seap-export ")
            see = f"an example: seap-export {examples.splitlines()[0]}; {see}"
        return f"{message} {see.capitalize()}" if message.endswith("?") else f"{message.rstrip('.')}; {see}"
    return message


def _print_error(error: click.ClickException, message: str, as_json: bool) -> None:
    report = getattr(error, "report", None)
    with suppress(OSError):
        click.echo(f"Error: {message}", err=True)
    if as_json:
        values = {"error": {"message": message, "exit_code": error.exit_code}}
        try:
            print_json(values if report is None else {**values, "report": report})
        except OSError:
            _forget_stdout()


@click.group(cls=_Commands, epilog=_EPILOG, context_settings=_HELP_OPTIONS)
@click.version_option(seap_export.__version__, prog_name="seap-export")
def main() -> None:
    """Turn a language model into smaller, task-specific ones, and check that the written files compute the same."""


for command in itertools.chain(*_COMMANDS.values()):
    # Not inherited from `main`: click keeps the names of the first run, which may be one of the command by itself.
    command.context_settings.update(_HELP_OPTIONS)
    main.add_command(command)
