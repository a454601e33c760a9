"""Runs a GGUF file in llama.cpp as `OnnxRunner` runs a graph: a prompt, then more tokens, with a cache.

Weights in f16 and in blocks of integers are multiplied with activations that llama.cpp rounds first, to f16 or to 8
bits; in f32 nothing is rounded. Keys and values are kept in f32, and attention is not fused, unless asked otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from converters.format import Format
from converters.gguf.file import MODEL_FILE
from converters.onnx.precision import Precision, choose_precision
from seap_export import errors
from seap_export.common.child_process import ChildEnded, ChildProcess
from seap_export.common.llama_library import LIBRARY_EXTRA
from seap_export.errors import ParityFailure, SeapError
from seap_export.model.families import Mlp, ModelSpec
from seap_export.pruning.rounding.grid import BLOCK_SIZES
from validation.runtimes.child_texts import ChildTexts
from validation.runtimes.llama_cpp.worker import LlamaOptions
from validation.runtimes.runner import Logits, Opening, Runner, real_lengths
from validation.runtimes.timing import Pace

_WORKER = "validation.runtimes.llama_cpp.worker"
#: How much of what the process wrote before it ended is repeated.
_LAST_CHARACTERS = 200


class LlamaCppRunner(Runner):
    """Runs one generation after another; `prefill` starts a new one, `append` and `step` continue it."""

    runtime: ClassVar[str] = "llama.cpp"
    extra: ClassVar[str | None] = LIBRARY_EXTRA

    def __init__(self, model: Path, options: LlamaOptions) -> None:
        self._model = model
        self._process = ChildProcess([sys.executable, "-m", _WORKER])
        try:
            self.vocab_size: int = self.ask("open", path=model.resolve(), options=asdict(options))
        except BaseException:
            self.close()
            raise

    def prefill(self, input_ids: NDArray[np.int64], lengths: Sequence[int], room: int = 0) -> Logits:
        """Runs the prompts from an empty cache; logits after the real tokens are 0."""
        rows, width = input_ids.shape
        real_lengths(input_ids, lengths)
        self.ask("start", rows=rows, capacity=width + room)
        flat = self._append([row[:length] for row, length in zip(input_ids, lengths, strict=True)])
        logits = np.zeros((rows, width, self.vocab_size), np.float32)
        for row, of_row in enumerate(np.split(flat, np.cumsum(lengths)[:-1])):
            logits[row, : len(of_row)] = of_row
        return logits

    def append(self, input_ids: NDArray[np.int64]) -> Logits:
        return self._append(list(input_ids)).reshape(*input_ids.shape, self.vocab_size)

    def timed(self, prompt: Sequence[int], steps: int) -> Pace:
        """Times a generation inside llama.cpp's process; see `TimesItself`."""
        first, *others = self.ask("timed", prompt=list(map(int, prompt)), steps=steps)
        return Pace(first, tuple(others))

    def close(self) -> None:
        self._process.close()

    def _append(self, rows: Sequence[NDArray[np.int64]]) -> Logits:
        """The logits of all tokens of all rows, one row after the other, [tokens, V]."""
        self.ask("append", rows=[row.tolist() for row in rows], file=self._process.file)
        return self._process.tensor([sum(map(len, rows)), self.vocab_size])

    def ask(self, do: str, **values: Any) -> Any:
        """The answer of llama.cpp's process to a request; see `LlamaSession`."""
        try:
            answer = self._process.ask(do=do, **values)
        except ChildEnded as ended:
            raise ParityFailure(f"{self._model}: llama.cpp ended by itself: {_last_words(ended)}") from ended
        if "error" in answer:
            kind: type[SeapError] = getattr(errors, answer["kind"])
            raise kind(answer["error"])
        return answer["value"]


class LlamaTexts(ChildTexts):
    """llama.cpp's tokenizer and its server's chat template, of which only the latter loads the weights."""

    known: ClassVar[Mapping[str, str]] = {
        "a whole conversation": "llama.cpp's server lets the model go on with an answer that comes last"
    }

    def __init__(self, folder: Path) -> None:
        runner = LlamaCppRunner(folder / MODEL_FILE, LlamaOptions(1, vocabulary_only=True))
        super().__init__(runner.ask, runner.close)


def _last_words(ended: ChildEnded) -> str:
    """The assertion or error in the log of a process that ended, or its last line, or else its exit status."""
    lines = [line for line in ended.log.splitlines() if line.strip()]
    reason = next((line for line in lines if "GGML_ASSERT" in line or "Error" in line), " ".join(lines[-1:]))
    return reason.strip()[-_LAST_CHARACTERS:] or f"exit status {ended.status}"


def open_llama_cpp(folder: Path, opening: Opening) -> LlamaCppRunner:
    """Opens a folder that the format `gguf` wrote; errors are those of `LlamaCppRunner`.

    llama.cpp's own programs serve it with weights in the CPU's order, and keys and values in f16.
    """
    options = LlamaOptions(opening.execution.thread_count)
    if opening.purpose == "served":
        options = replace(options, cache="f16", repack=True)
    return LlamaCppRunner(folder / MODEL_FILE, options)


def llama_arithmetic(format: Format, spec: ModelSpec) -> Precision:
    """What a file is computed in.

    On the CPU llama.cpp looks GELU up in a table of f16, even where everything else is f32. What K-quants are
    multiplied with has one scale for 256 numbers (`block_q8_K`), and not for 32.

    Source: https://github.com/ggml-org/llama.cpp, ggml/src/ggml-cpu/vec.h, `GGML_GELU_FP16`; ggml/src/ggml-common.h.
    """
    arithmetic = format.arithmetic
    if arithmetic.name == "fp32" and spec.first(Mlp).activation != "silu":
        return Precision("fp16")
    return choose_precision(arithmetic.name, block_size=max(BLOCK_SIZES)) if "_k" in format.precision else arithmetic
