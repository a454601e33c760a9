"""Sets how torch's threads wait for each other, in programs; a library leaves that to the program that imports it."""

from __future__ import annotations

import os


def spin_briefly() -> None:
    """To be called before torch is loaded, which reads it; a value from outside stays.

    Threads of torch (libgomp) spin for 300,000 turns while one waits for another. If anything else runs on the
    machine, that is whole time slices, and a layer takes several times as long. 1,000 is what libgomp chooses where it
    has more threads than cores.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
