"""Runs a GGUF file in llama.cpp as `OnnxRunner` runs a graph: a prompt, then more tokens, with a cache.

Weights in f16 and in blocks of integers are multiplied with activations that llama.cpp rounds first, to f16 or to 8
bits; in f32 nothing is rounded. Keys and values are kept in f32, and attention is not fused, unless asked otherwise.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from converters.gguf.file import MODEL_FILE
from seap_export.errors import ParityFailure, SeapError
from seap_export.llama_library import LIBRARY_EXTRA
from validation.runtimes.llama_cpp.worker import LlamaOptions
from validation.runtimes.timing import Pace

__all__ = ["LlamaCppRunner", "LlamaOptions", "open_llama_cpp", "open_llama_cpp_server"]

Logits = NDArray[np.float32]
_WORKER = "validation.runtimes.llama_cpp.worker"
#: How much of what the process wrote before it ended is repeated.
_LAST_CHARACTERS = 200


class LlamaCppRunner:
    """Runs one generation after another; `prefill` starts a new one, `append` and `step` continue it.

    Args:
        model: The GGUF file.
        options: Threads, type of the cache, and whether weights are reordered.

    Raises:
        EnvironmentFailure: llama.cpp is missing.
        ParityFailure: llama.cpp does not load the file.
    """

    runtime: ClassVar[str] = "llama.cpp"
    extra: ClassVar[str | None] = LIBRARY_EXTRA
    gives: ClassVar[Literal["logits", "log-probabilities"]] = "logits"

    def __init__(self, model: Path, options: LlamaOptions) -> None:
        self._model = model
        self._process = subprocess.Popen(
            [sys.executable, "-m", _WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            self.vocab_size: int = self._call(model.resolve(), options)
        except BaseException:
            self.close()
            raise

    def prefill(self, input_ids: NDArray[np.int64], lengths: Sequence[int], room: int = 0) -> Logits:
        """Runs the prompts from an empty cache.

        Args:
            input_ids: int64 [B, S], padded on the right with any token.
            lengths: The real tokens of each row, 1 to S; logits after them are zeros.
            room: How many tokens may be appended to a row.

        Returns:
            float32 [B, S, V].

        Raises:
            ParityFailure: llama.cpp does not compute them.
            EnvironmentFailure: There is no memory for the cache.
        """
        rows, width = input_ids.shape
        if len(lengths) != rows or min(lengths) < 1 or max(lengths) > width:
            raise ValueError(f"lengths {list(lengths)} do not fit input_ids of shape {list(input_ids.shape)}")
        self._call("start", (rows, width + room))
        found = self._call("append", ([row[:length] for row, length in zip(input_ids, lengths, strict=True)],))
        logits = np.zeros((rows, width, self.vocab_size), np.float32)
        for row, own in enumerate(found):
            logits[row, : len(own)] = own
        return logits

    def append(self, input_ids: NDArray[np.int64]) -> Logits:
        """Appends tokens to each row, int64 [B, S], all of them real; float32 [B, S, V]. Errors: as for `prefill`."""
        return np.stack(self._call("append", (list(input_ids),)))

    def step(self, next_ids: Sequence[int]) -> Logits:
        """Appends one token to each row [B] and returns the logits [B, V]; errors are those of `append`."""
        return self.append(np.asarray(next_ids, np.int64)[:, None])[:, 0]

    def cache(self, row: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]] | None:
        """None: llama.cpp does not show its keys and values."""
        return None

    def timed(self, prompt: Sequence[int], steps: int) -> Pace:
        """See `Timed`; the time is taken in llama.cpp's process."""
        pace: Pace = self._call("timed", (list(map(int, prompt)), steps))
        return pace

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """llama.cpp's own ids of a text, in which special tokens are recognised."""
        ids: list[int] = self._call("tokenize", (text, add_special))
        return ids

    def ends(self) -> list[int]:
        """The tokens that end a text for llama.cpp."""
        ids: list[int] = self._call("ends", ())
        return ids

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> LlamaCppRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, name: Any, arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump((name, arguments), self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise ParityFailure(f"{self._model}: llama.cpp ended by itself: {self._last_words()}") from error
        if isinstance(answer, SeapError):
            raise answer
        return answer

    def _last_words(self) -> str:
        self._process.kill()
        _, said = self._process.communicate()
        lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
        reason = next((line for line in lines if "GGML_ASSERT" in line or "Error" in line), " ".join(lines[-1:]))
        return reason.strip()[-_LAST_CHARACTERS:] or f"exit status {self._process.returncode}"


def open_llama_cpp(folder: Path, threads: int) -> LlamaCppRunner:
    """Opens a folder that the format `gguf` wrote; errors are those of `LlamaCppRunner`."""
    return LlamaCppRunner(folder / MODEL_FILE, LlamaOptions(threads))


def open_llama_cpp_server(folder: Path, threads: int) -> LlamaCppRunner:
    """Opens it as llama.cpp's own programs do: weights in the CPU's order, keys and values in f16."""
    return LlamaCppRunner(folder / MODEL_FILE, LlamaOptions(threads, cache="f16", repack=True))
