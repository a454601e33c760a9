"""Runs a GGUF file with llama.cpp, in a process of its own: llama.cpp ends the process when it asserts.

It is started by `validation.runtimes.llama_cpp.runner` alone; see `_Server`.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from seap_export.common.child_process import answer_requests
from seap_export.common.llama_library import LlamaLibrary, llama_library
from seap_export.errors import EnvironmentFailure, ParityFailure, SeapError
from validation.runtimes.timing import timed_loop

#: ggml's numbers of the types that a cache may have.
_CACHE_TYPES = {"f32": 0, "f16": 1}
#: Tokens that are computed at a time.
_UBATCH = 512
#: Bytes of the longest token of any vocabulary, and more.
_LONGEST_TOKEN = 512
#: LLAMA_VOCAB_TYPE_BPE.
_BYTE_LEVEL = 2


@dataclass(frozen=True)
class LlamaOptions:
    """Options with which llama.cpp loads and runs a model."""

    threads: int
    cache: Literal["f32", "f16"] = "f32"
    repack: bool = False
    vocabulary_only: bool = False


class LlamaSession:
    """A GGUF file that llama.cpp has loaded."""

    def __init__(self, path: Path, options: LlamaOptions) -> None:
        self._library: LlamaLibrary = llama_library()
        self._path, self._options = path, options
        self._server: Any = None
        parameters = self._library.llama_model_default_params()
        parameters.n_gpu_layers = 0
        parameters.use_extra_bufts = options.repack
        parameters.vocab_only = options.vocabulary_only
        self._model = self._library.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self._model:
            raise ParityFailure(
                f"{path}: llama.cpp does not load it: {self._library.last_words() or 'no reason given'}"
            )
        self._vocabulary = self._library.llama_model_get_vocab(self._model)
        self.vocab_size: int = self._library.llama_vocab_n_tokens(self._vocabulary)
        self._context: int | None = None
        self._lengths: list[int] = []

    def start(self, rows: int, capacity: int) -> None:
        """Makes an empty cache for `rows` sequences of at most `capacity` tokens.

        Raises:
            EnvironmentFailure: llama.cpp cannot make the cache.
        """
        self._free()
        parameters = self._library.llama_context_default_params()
        parameters.n_ctx = rows * capacity
        parameters.n_batch = parameters.n_ubatch = min(_UBATCH, rows * capacity)
        parameters.n_seq_max, parameters.kv_unified = rows, rows > 1
        parameters.n_outputs_max = parameters.n_outputs_max_per_seq = 0
        parameters.n_threads = parameters.n_threads_batch = self._options.threads
        parameters.type_k = parameters.type_v = _CACHE_TYPES[self._options.cache]
        parameters.flash_attn_type = 0 if self._options.cache == "f32" else -1
        parameters.swa_full = True  # a window's cache may not forget what a later token of the batch needs
        self._context = self._library.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise EnvironmentFailure(f"llama.cpp does not start: {self._library.last_words() or 'out of memory'}")
        self._lengths = [0] * rows

    def append(self, rows: Sequence[Sequence[int]], file: str) -> None:
        """Appends tokens to each sequence, and writes the logits of all, one row after the other, to a file.

        They are float32 [tokens, vocab_size].

        Raises:
            ParityFailure: llama.cpp does not compute them.
            EnvironmentFailure: The file cannot be written.
        """
        logits: NDArray[np.float32] = np.empty((sum(map(len, rows)), self.vocab_size), np.float32)
        start = 0
        for tokens in self._run(rows):
            for index in range(tokens):
                logits[start + index] = self._logits(index)
            start += tokens
        try:
            logits.astype("<f4", copy=False).tofile(file)
        except OSError as error:
            raise EnvironmentFailure(f"the temporary folder cannot hold the logits of llama.cpp: {error}") from error

    def timed(self, prompt: Sequence[int], steps: int) -> list[float]:
        """Seconds of a prompt and of each of the most likely tokens after it; logits are the last token's alone.

        Raises:
            EnvironmentFailure, ParityFailure: As for `start` and `append`.
        """
        self.start(1, len(prompt) + steps)

        def following(*tokens: int) -> int:
            for _ in self._run([tokens], last_only=True):
                pass
            return int(self._logits(-1).argmax())

        pace = timed_loop(lambda: following(*prompt), following, steps)
        return [pace.first_s, *pace.steps_s]

    def encode(self, text: str, special: bool) -> list[int]:
        """The ids of a text, in which special tokens are recognised, with those that belong around it or without."""
        data = text.encode("utf-8")
        room = len(data) + 8
        buffer = (ctypes.c_int32 * room)()
        count = self._library.llama_tokenize(self._vocabulary, data, len(data), buffer, room, special, True)
        if count < 0:
            raise ParityFailure(f"llama.cpp needs {-count} tokens for {len(data)} bytes")
        return list(buffer[:count])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones, as the server streams it.

        `llama_detokenize` strips the space at the start of a SentencePiece text, as it should, but cleans up spaces
        between the tokens of byte-level tokenizers, which the server does not.
        """
        if self._library.llama_vocab_type(self._vocabulary) == _BYTE_LEVEL:
            return b"".join(map(self._piece, ids)).decode("utf-8", "replace")
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        room = 8 + _LONGEST_TOKEN * len(ids)
        text = ctypes.create_string_buffer(room)
        count = self._library.llama_detokenize(self._vocabulary, tokens, len(ids), text, room, False, False)
        if count < 0:
            raise ParityFailure(f"llama.cpp needs {-count} bytes for {len(ids)} tokens")
        return text.raw[:count].decode("utf-8", "replace")

    def _piece(self, token: int) -> bytes:
        text = ctypes.create_string_buffer(_LONGEST_TOKEN)
        count = self._library.llama_token_to_piece(self._vocabulary, token, text, _LONGEST_TOKEN, 0, False)
        if count < 0:
            raise ParityFailure(f"llama.cpp needs {-count} bytes for the token {token}")
        return text.raw[:count]

    def render(self, messages: Sequence[Any], tools: Sequence[Any], prompts: bool) -> str:
        """The text that the file's chat template makes of messages, as llama.cpp's server gives it.

        Raises:
            ParityFailure: The server does not start, or refuses the messages.
        """
        if self._server is None:
            self._server = _started_server(self._path)
        body = {"messages": messages, "add_generation_prompt": prompts, **({"tools": tools} if tools else {})}
        request = urllib.request.Request(
            f"{self._server.listening_address}/apply-template",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
                return str(json.load(answer)["prompt"])
        except urllib.error.HTTPError as error:
            reason = " ".join(error.read().decode("utf-8", "replace").split())
            raise ParityFailure(f"llama.cpp's server does not render it: {reason:.200}") from error

    def close(self) -> None:
        """Frees the model and its cache."""
        self._free()
        self._library.llama_model_free(self._model)

    def _run(self, rows: Sequence[Sequence[int]], *, last_only: bool = False) -> Iterator[int]:
        """Appends tokens to each sequence; yields how many were computed each time."""
        calls = [
            (row, token, position)
            for row, tokens in enumerate(rows)
            for position, token in enumerate(tokens, self._lengths[row])
        ]
        batch = self._library.llama_batch_init(min(_UBATCH, len(calls)), 0, 1)
        try:
            for start in range(0, len(calls), _UBATCH):
                part = calls[start : start + _UBATCH]
                self._decode(batch, part, last_only)
                yield len(part)
        finally:
            self._library.llama_batch_free(batch)
        for row, tokens in enumerate(rows):
            self._lengths[row] += len(tokens)

    def _decode(self, batch: Any, part: Sequence[tuple[int, int, int]], last_only: bool = False) -> None:
        batch.n_tokens = len(part)
        for index, (row, token, position) in enumerate(part):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, row
            batch.logits[index] = not last_only or index == len(part) - 1
        status = self._library.llama_decode(self._context, batch)
        if status:
            raise ParityFailure(
                f"llama.cpp does not compute {len(part)} tokens (status {status}): {self._library.last_words()}"
            )

    def _logits(self, index: int) -> NDArray[np.float32]:
        """The logits of a token of the latest batch, [vocab_size], valid until the next batch."""
        logits = self._library.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(logits, (self.vocab_size,))

    def _free(self) -> None:
        if self._context:
            self._library.llama_free(self._context)
        self._context = None


def _started_server(path: Path) -> Any:
    """llama.cpp's server with a file, on this machine alone; it ends with the process."""
    library: Any = importlib.import_module("xllamacpp")
    parameters = library.CommonParams()
    parameters.model.path = os.fspath(path)
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = _UBATCH, 1, False
    parameters.use_jinja = True
    try:
        return library.Server(parameters)
    except RuntimeError as error:
        raise ParityFailure(f"llama.cpp's server does not start: {' '.join(str(error).split()):.200}") from error


class _Server:
    """Answers requests with {value}, or {error, kind}: the message and the class of a `SeapError`."""

    _session: LlamaSession | None = None

    def answer(self, do: str, **values: Any) -> dict[str, Any]:
        """The first request is to open {path, options}; others name a method of `LlamaSession` and its arguments."""
        try:
            if self._session is None:
                self._session = LlamaSession(Path(values["path"]), LlamaOptions(**values["options"]))
                return {"value": self._session.vocab_size}
            return {"value": getattr(self._session, do)(**values)}
        except SeapError as error:
            return {"error": str(error), "kind": type(error).__name__}


if __name__ == "__main__":
    answer_requests(_Server().answer)
