"""The command line, `seap-export COMMAND`, which calls the Python API and prints its results."""

from seap_export.common.threads import spin_briefly

spin_briefly()

from seap_export.cli.main import main  # noqa: E402 - loads torch

__all__ = ["main"]
