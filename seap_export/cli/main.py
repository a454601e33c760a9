"""The group of commands, and how errors become one line and an exit code."""

from __future__ import annotations

import errno
import sys
from typing import Any

import click

import seap_export
from seap_export.cli.calibrate import calibrate_command
from seap_export.cli.convert import convert_command
from seap_export.cli.export import export_command
from seap_export.cli.inspect import inspect_command
from seap_export.cli.parity import parity_command
from seap_export.cli.plan import plan_command
from seap_export.cli.prune import prune_command
from seap_export.errors import SeapError

__all__ = ["main"]

_EPILOG = """\b
Exit codes:
  0  done, parity passed
  1  internal error
  2  usage: options, or a file that would be overwritten
  3  parity failed
  6  environment: execution provider, library, disk or download
  7  an artifact is damaged or incomplete
  8  bad model or corpus
"""
_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again to go on",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again to go on",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; choose another folder or mend its permissions",
    errno.EPERM: "not permitted; choose another folder or mend its permissions",
}


class _Commands(click.Group):
    """Shows library errors the way click shows its own: one line on stderr, and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SeapError as error:
            _fail(str(error), error.exit_code)
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            _fail(f"{error.filename or 'writing'}: {_DISK_ERRORS[error.errno]}", 6)
        except Exception as error:
            if not _is_full_disk(error):
                raise
            _fail(f"writing: {_DISK_ERRORS[errno.ENOSPC]}", 6)


def _is_full_disk(error: Exception) -> bool:
    """Some libraries report a failed write in words only."""
    return "No space left on device" in str(error)


def _fail(message: str, code: int) -> None:
    click.echo("Error: " + " ".join(message.split()), err=True)
    sys.exit(code)


@click.group(cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(seap_export.__version__, prog_name="seap-export")
def main() -> None:
    """Prune a language model per task, write each variant as safetensors and ONNX, prove that they agree.

    `export` does everything; the other commands are its steps.
    """


for command in (
    export_command,
    calibrate_command,
    plan_command,
    prune_command,
    convert_command,
    parity_command,
    inspect_command,
):
    main.add_command(command)
