"""Bundles of LiteRT-LM in LiteRT, as parity sees them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import ClassVar

from converters.litert.decoder import cache_length
from validation.parity.candidates.candidate import RuntimeCandidate
from validation.parity.profiles import Pass
from validation.runtimes.litert_runner import LitertRunner


class LitertCandidate(RuntimeCandidate):
    """See `RuntimeCandidate`."""

    rounds_rows: ClassVar[bool] = True

    @property
    def context_length(self) -> int:
        """That of the cache."""
        return cache_length(self._input.spec)

    @contextmanager
    def opened(self, way: Pass) -> Iterator[LitertRunner]:
        """The program of a pass."""
        threads = self._input.execution.thread_count
        with closing(LitertRunner(self._input.folder, threads, in_float=way.in_float)) as runner:
            yield runner
