"""Bundles of LiteRT-LM in LiteRT, as parity sees them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import ClassVar

from converters.litert.decoder import cache_length
from validation.parity.candidate import RuntimeCandidate
from validation.parity.profiles import Limits, Pass, passes
from validation.runtimes.litert_runner import LitertRunner

__all__ = ["LitertCandidate"]


class LitertCandidate(RuntimeCandidate):
    """See `RuntimeCandidate`. The kernels of int8 round activations, so the program also runs in float32.

    XNNPACK rounds what such weights are multiplied with to 8 bits, with a scale and a zero point for each token.
    """

    rounds_rows: ClassVar[bool] = True

    @property
    def context_length(self) -> int:
        """That of the cache."""
        return cache_length(self._input.spec)

    def passes(self, limits: Limits) -> tuple[Pass, ...]:
        """The program with dequantised weights, and as it is."""
        return passes(self.arithmetic, "cpu", limits)

    @contextmanager
    def opened(self, way: Pass) -> Iterator[LitertRunner]:
        """The program of a pass."""
        threads = self._input.execution.thread_count
        with closing(LitertRunner(self._input.folder, threads, in_float=way.in_float)) as runner:
            yield runner
