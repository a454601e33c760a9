"""The command line: `seap-export COMMAND`."""

import os

# torch's threads (libgomp) spin for 300,000 turns while one waits for the other. If anything else runs on the machine,
# that is whole time slices, and a layer takes several times as long. It is read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from seap_export.cli.main import main

__all__ = ["main"]
