"""Runs a program with ExecuTorch's own runtime, whose cache of keys and values is inside the program.

There is one cache, so that the rows of a batch take turns, and a row whose turn it is reads again what it had read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from converters.executorch.decoder import decoder_program
from converters.executorch.packages import EXTRA, quiet, require
from converters.executorch.read_back import ExecutorchWeights
from converters.executorch.stored_program import PROGRAM
from converters.executorch.writer import write_program
from seap_export.errors import ArtifactError, UsageError
from validation.runtimes.row_by_row import RowByRow
from validation.runtimes.runner import Logits, Opening, reported
from validation.runtimes.texts import RuntimeTexts

#: The packages that register the kernels of attention and of embeddings in 8 bits.
_KERNELS = ("executorch.extension.llm.custom_ops.custom_ops", "executorch.kernels.quantized")


class ExecutorchRunner(RowByRow[list[int]]):
    """Runs one generation after another; `prefill` starts a new one, `append` and `step` continue it.

    Args:
        threads: Threads of ExecuTorch's pool, which all programs of this process share.

    Attributes:
        context_length: The tokens that the cache holds; see `Bounded`.
    """

    runtime: ClassVar[str] = "executorch"
    extra: ClassVar[str | None] = EXTRA

    def __init__(self, folder: Path, threads: int = 1, *, all_logits: bool = False) -> None:
        super().__init__(all_logits=all_logits)
        path = folder / PROGRAM
        if not path.is_file():
            raise ArtifactError(f"{path}: missing; export again")
        with quiet():
            library = require("executorch.extension.pybindings.portable_lib")
            for kernels in _KERNELS:
                require(kernels)
            with reported(f"{path}: ExecuTorch cannot load it", kind=ArtifactError):
                if library._threadpool_get_thread_count() != threads:
                    library._unsafe_reset_threadpool(threads)
                self._program = require("executorch.runtime").Runtime.get().load_program(path)
                self._most, self.context_length = (
                    int(self._program.load_method(f"get_max_{kind}_len").execute([])[0]) for kind in ("seq", "context")
                )
                self._forward: Any = self._program.load_method("forward")
        self.written: tempfile.TemporaryDirectory[str] | None = None
        self._cached: list[int] | None = None  # the row whose keys and values are in the program

    def _new_row(self) -> list[int]:
        return []

    def close(self) -> None:
        self._rows = []
        del self._forward, self._program
        if self.written is not None:
            self.written.cleanup()

    def _continued(self, row: list[int], ids: NDArray[np.int64]) -> Logits:
        if len(row) + len(ids) > self.context_length:
            raise UsageError(f"executorch holds at most {self.context_length} tokens of a text; use shorter texts")
        if self._cached is not row:
            self._run(row, 0)
            self._cached = row
        start = len(row)
        row += ids.tolist()
        if not self._all_logits:
            return self._run(row[start:], start)
        return np.concatenate([self._run([token], start + index) for index, token in enumerate(row[start:])])

    def _run(self, tokens: Sequence[int], start: int) -> Logits:
        """Appends tokens from a position on, in as few calls as it takes; gives the logits of the last, [1, V]."""
        given: Any = None
        with reported("ExecuTorch does not run the program"):
            for first in range(0, len(tokens), self._most):
                part = torch.tensor([tokens[first : first + self._most]])
                (given,) = self._forward.execute([part, torch.tensor([start + first])])
        logits: Logits = np.zeros((1, 0), np.float32) if given is None else given.numpy().copy()
        return logits


class ExecutorchTexts(RuntimeTexts):
    """The tokenizer of ExecuTorch's LLM runners, in C++, which have no chat templates; see `RuntimeTexts`."""

    def __init__(self, folder: Path) -> None:
        library, path = require("pytorch_tokenizers"), folder / "tokenizer.json"
        with reported(f"ExecuTorch does not read {path.name}"), quiet():
            self._tokenizer = library.CppHFTokenizer()
            self._tokenizer.load(str(path))

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        with reported("ExecuTorch does not tokenize"):
            return list(map(int, self._tokenizer.encode(text, 0, 0)))

    def decode(self, ids: Sequence[int]) -> str:
        with reported("ExecuTorch does not decode"):
            return str(self._tokenizer.decode_batch(list(ids), True))


def open_executorch(folder: Path, opening: Opening) -> ExecutorchRunner:
    """Opens a folder; errors are those of `ExecutorchRunner`."""
    threads, spec = opening.execution.thread_count, opening.in_float_of
    if spec is None:
        return ExecutorchRunner(folder, threads, all_logits=opening.purpose == "scored")
    written = tempfile.TemporaryDirectory()
    stored = ExecutorchWeights(folder, spec)
    write_program(Path(written.name) / PROGRAM, decoder_program(spec, "fp32", ()), stored.plain)
    runner = ExecutorchRunner(Path(written.name), threads)
    runner.written = written  # it is removed with the runner
    return runner
