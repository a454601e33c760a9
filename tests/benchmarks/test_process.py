"""A command is measured on its own, whatever the memory of the process that asks."""

from __future__ import annotations

import sys

import pytest
from benchmarks.process import measure


def test_the_memory_of_the_one_that_asks_does_not_count() -> None:
    ballast = bytearray(b"x") * 300_000_000
    peak = measure([sys.executable, "-I", "-S", "-c", "pass"]).peak_bytes
    assert peak is not None
    assert peak < len(ballast) / 3


def test_the_memory_of_the_command_counts() -> None:
    figures = measure([sys.executable, "-I", "-S", "-c", "b = bytearray(b'x') * 200_000_000; print('said')"])
    assert figures.peak_bytes is not None
    assert figures.peak_bytes > 200_000_000
    assert figures.wall_s > 0


def test_a_failed_command_is_not_measured() -> None:
    with pytest.raises(RuntimeError, match="ended with exit code 3; see above"):
        measure([sys.executable, "-c", "raise SystemExit(3)"])
