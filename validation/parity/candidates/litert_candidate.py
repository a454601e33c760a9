"""Parity of LiteRT-LM's bundles in LiteRT; quantised ones also run with weights dequantised to float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import ClassVar

from converters.litert.decoder import cache_length
from validation.parity.candidates.candidate import RuntimeCandidate
from validation.parity.profiles import Pass
from validation.runtimes.litert_runner import LitertRunner


class LitertCandidate(RuntimeCandidate):
    """A bundle in LiteRT; see `RuntimeCandidate`."""

    rounds_rows: ClassVar[bool] = True

    @property
    def context_length(self) -> int:
        """The tokens that the bundle's cache holds."""
        return cache_length(self._input.spec)

    @contextmanager
    def opened(self, way: Pass) -> Iterator[LitertRunner]:
        """Opens the bundle for a pass, with weights dequantised to float32 if the pass says so."""
        threads = self._input.execution.thread_count
        with closing(LitertRunner(self._input.folder, threads, in_float=way.in_float)) as runner:
            yield runner
