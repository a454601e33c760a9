"""Parity of programs in ExecuTorch; quantised ones are also written and run with float32 activations."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ClassVar

from converters.executorch.decoder import cache_length, decoder_program
from converters.executorch.read_back import ExecutorchWeights
from converters.executorch.stored_program import PROGRAM
from converters.executorch.writer import write_program
from validation.parity.candidates.candidate import RuntimeCandidate
from validation.parity.profiles import Pass
from validation.runtimes.executorch_runner import ExecutorchRunner


class ExecutorchCandidate(RuntimeCandidate):
    """A program in ExecuTorch; see `RuntimeCandidate`."""

    rounds_rows: ClassVar[bool] = True

    @property
    def context_length(self) -> int:
        """The tokens that the program's cache holds."""
        return cache_length(self._input.spec)

    @contextmanager
    def opened(self, way: Pass) -> Iterator[ExecutorchRunner]:
        """The program of a pass; that in float32 is written for it, with the weights that the folder holds."""
        folder, spec, threads = self._input.folder, self._input.spec, self._input.execution.thread_count
        with tempfile.TemporaryDirectory() as made:
            if way.in_float:
                stored = ExecutorchWeights(folder, spec)
                write_program(Path(made) / PROGRAM, decoder_program(spec, "fp32", ()), stored.plain)
            with closing(ExecutorchRunner(Path(made) if way.in_float else folder, threads)) as runner:
                yield runner
