"""`optimum-cli export seap`, which is `seap-export export` under another name."""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

__all__ = ["SeapExportCommand"]


class SeapExportCommand(BaseOptimumCLICommand):
    """Hands every argument on to `seap-export export`, whose options, help, output and exit codes it has."""

    COMMAND = CommandInfo(
        name="seap",
        help="Prune a decoder model per task and export each variant to safetensors and ONNX (seap-export).",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declares one argument that takes all there is, options and `--help` included."""
        parser.prefix_chars = ""  # nothing is an option to argparse: click knows the options
        parser.add_argument("arguments", nargs=REMAINDER)

    def run(self) -> None:
        """Runs the command and exits with its exit code."""
        from seap_export.cli import main  # optimum-cli loads this module whatever the command is

        main(["export", *self.args.arguments])
