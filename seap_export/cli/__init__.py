"""The command line: `seap-export COMMAND`."""

from seap_export.cli.main import main

__all__ = ["main"]
