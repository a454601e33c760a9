"""`optimum-cli export seap`, another name for `seap-export export`."""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo


class SeapExportCommand(BaseOptimumCLICommand):
    """Passes all arguments to `seap-export export`, with the same options, help, output and exit codes."""

    COMMAND = CommandInfo(
        name="seap",
        help="Prune a decoder model per task and export each variant to safetensors and ONNX (seap-export).",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declares a single argument that takes everything, including options and `--help`."""
        parser.prefix_chars = ""  # argparse must not recognise options; click does
        parser.add_argument("arguments", nargs=REMAINDER)

    def run(self) -> None:
        """Runs the command and exits with its exit code."""
        from seap_export.cli import main  # not at the top: optimum-cli loads this module for every command

        main(["export", *self.args.arguments])
