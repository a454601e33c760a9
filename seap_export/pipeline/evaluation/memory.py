"""The memory that a written folder takes in its runtime, estimated from its files."""

from __future__ import annotations

from pathlib import Path

from converters.format import Format
from validation.runtimes.table import memory_about
from validation.session_memory import Calls

#: A prompt of 128 tokens and an answer of 16, as an export times them.
_CALLS = Calls(1, 128, 144)


def memory_of(folder: Path, format: Format | None) -> int | None:
    """About how many bytes a folder takes at its peak, the program around the runtime apart; None: not known."""
    if format is None:
        return None
    return memory_about(format.runtimes[0], folder, _CALLS, format.provider or "cpu")
