"""The command line: `seap-export COMMAND`."""

import os

# Threads of torch (libgomp) spin for 300,000 turns while one waits for another. If anything else runs on the machine,
# that is whole time slices, and a layer takes several times as long. 1,000 is what libgomp chooses where it has more
# threads than cores. It is read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from seap_export.cli.main import main

__all__ = ["main"]
