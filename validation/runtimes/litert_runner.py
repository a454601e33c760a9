"""Runs a bundle of LiteRT-LM with LiteRT's own interpreter: a prompt by its signatures, then a token at a time.

Signatures take one row, so that the rows of a batch run one after the other, each with its own cache, which is updated
in place.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from converters.litert.bundle import BUNDLE, PROGRAM, TOKENIZER, Bundle
from converters.litert.decoder import HIDDEN
from converters.litert.metadata import unpacked_tokenizer
from converters.litert.packages import EXTRA, require
from converters.litert.stored_program import StoredProgram
from seap_export.common.stderr import silent_stderr
from seap_export.errors import ArtifactError, UsageError
from validation.runtimes.row_by_row import RowByRow
from validation.runtimes.runner import Layers, Logits, Opening, reported
from validation.runtimes.texts import Conversation, RuntimeTexts

_DECODE, _PREFILL, _CACHE = "decode", "prefill_", "kv_cache_"
#: LiteRT-LM's name for a cache that is not kept.
_NO_CACHE = ":nocache"


class LitertRunner(RowByRow["_Row"]):
    """Runs one generation after another; `prefill` starts a new one, `append` and `step` continue it.

    Args:
        in_float: Whether int8 weights are dequantised first, so that activations are not rounded.

    Attributes:
        context_length: The tokens that the cache holds; see `Bounded`.
    """

    runtime: ClassVar[str] = "litert"
    extra: ClassVar[str | None] = EXTRA

    def __init__(self, folder: Path, threads: int = 1, *, in_float: bool = False, all_logits: bool = False) -> None:
        super().__init__(all_logits=all_logits)
        litert, bundle = require("ai_edge_litert.compiled_model"), Bundle(folder)
        program = StoredProgram(bundle).in_float() if in_float else bundle.section(PROGRAM)
        options = litert.Options(cpu_options=litert.CpuOptions(num_threads=threads))
        with reported(f"{folder / BUNDLE}: LiteRT cannot load it", kind=ArtifactError):
            with _quiet():
                self._model = litert.CompiledModel.from_buffer(program, options=options)
                self._inputs = {key: self._buffers(key) for key in self._model.get_signature_list()}
                self._logits = self._model.create_output_buffer_by_name(_DECODE, "logits")
                self._inputs[_DECODE]["tokens"].write(np.zeros((1, 1), np.int32))  # the first one starts accelerators
            shapes = {name: told["shape"] for name, told in self._model.get_input_tensor_details(_DECODE).items()}
            self._shapes = {name: tuple(shape) for name, shape in shapes.items() if name.startswith(_CACHE)}
            self.context_length = int(shapes["mask"][-1])
            self._vocabulary = int(self._model.get_output_tensor_details(_DECODE)["logits"]["shape"][-1])

    def _buffers(self, key: str) -> dict[str, Any]:
        names = self._model.get_signature_list()[key]["inputs"]
        return {
            name: self._model.create_input_buffer_by_name(key, name) for name in names if not name.startswith(_CACHE)
        }

    def _new_row(self) -> _Row:
        caches = {name: self._model.create_input_buffer_by_name(_DECODE, name) for name in self._shapes}
        for name, buffer in caches.items():
            buffer.write(np.zeros(self._shapes[name], np.float32))
        return _Row(caches)

    def cache(self, row: int) -> Layers:
        of_row = self._rows[row]
        for layer in range(len(self._shapes) // 2):
            yield {state: self._read(of_row, f"{_CACHE}{state[0]}_{layer}") for state in ("key", "value")}

    def close(self) -> None:
        with _quiet():
            for row in self._rows:  # an error in flight may hold them
                row.caches.clear()
            self._inputs.clear()
            del self._logits, self._model

    def _read(self, row: _Row, name: str) -> NDArray[np.float32]:
        shape = self._shapes[name]
        numbers: NDArray[np.float32] = row.caches[name].read(int(np.prod(shape)), np.float32).reshape(shape)
        return numbers[0, :, : row.tokens]

    def _continued(self, row: _Row, ids: NDArray[np.int64]) -> Logits:
        if row.tokens + len(ids) > self.context_length:
            raise UsageError(f"litert holds at most {self.context_length} tokens of a text; use shorter texts")
        if self._all_logits:
            return np.stack([self._run(row, _DECODE, ids[index : index + 1]) for index in range(len(ids))])
        rest = ids[:-1]
        while len(rest):
            key, count = self._next_call(row, len(rest))
            self._run(row, key, rest[:count])
            rest = rest[count:]
        return self._run(row, _DECODE, ids[-1:])[None]

    def _next_call(self, row: _Row, tokens: int) -> tuple[str, int]:
        """The signature that takes the next tokens, and how many: the shortest that takes all, or else the longest.

        One that reaches behind the end of the cache would be moved into it, over what is there.
        """
        keys = {int(key.removeprefix(_PREFILL)): key for key in self._inputs if key.startswith(_PREFILL)}
        fitting = [length for length in keys if row.tokens + length <= self.context_length]
        if not fitting:
            return _DECODE, 1
        length = min((length for length in fitting if length >= tokens), default=max(fitting))
        return keys[length], min(length, tokens)

    def _run(self, row: _Row, key: str, ids: NDArray[np.int64]) -> Logits:
        """Runs a signature; after `decode`, gives the logits [V]."""
        inputs, width = self._inputs[key], 1 if key == _DECODE else int(key.removeprefix(_PREFILL))
        padded, positions = np.zeros((2, width), np.int32)
        padded[: len(ids)] = ids
        positions[: len(ids)] = np.arange(row.tokens, row.tokens + len(ids))
        seen = np.arange(self.context_length) <= positions[:, None]
        with reported(f"LiteRT does not run {key}"):
            inputs["tokens"].write(padded)
            inputs["input_pos"].write(positions)
            inputs["mask"].write(np.where(seen, np.float32(0), np.float32(HIDDEN)))
            outputs = row.caches if key != _DECODE else {**row.caches, "logits": self._logits}
            self._model.run_by_name(key, {**inputs, **row.caches}, outputs)
            row.tokens += len(ids)
            logits: Logits = self._logits.read(self._vocabulary, np.float32)
        return logits


class LitertTexts(RuntimeTexts):
    """LiteRT-LM's tokenizer and chat template, for which it opens the whole bundle; see `RuntimeTexts`."""

    def __init__(self, folder: Path) -> None:
        library, bundle = require("litert_lm"), Bundle(folder)
        tokenizer = Tokenizer.from_str(unpacked_tokenizer(bundle.section(TOKENIZER)).decode("utf-8"))
        self._special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        with reported(f"{folder / BUNDLE}: LiteRT-LM cannot load it", kind=ArtifactError), _quiet():
            self._engine = library.Engine(str(folder / BUNDLE), cache_dir=_NO_CACHE)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Encodes a text, with the start token before it that LiteRT-LM's sessions add, or without."""
        start = self._engine.bos_token_id if special else None
        with reported("LiteRT-LM does not tokenize"):
            ids: list[int] = self._engine.tokenize(text) if text else []
        return ids if start is None else [start, *ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes tokens without special ones, before which LiteRT-LM's own answers end."""
        with reported("LiteRT-LM does not decode"):
            return str(self._engine.detokenize([token for token in ids if token not in self._special]))

    def render(self, conversation: Conversation) -> str | None:
        """Renders a conversation; None if it has tools, which are Python functions there, or asks for no answer."""
        if conversation.tools or not conversation.prompts:
            return None
        *before, last = map(dict, conversation.messages)
        reports, talks = reported("LiteRT-LM does not render it"), self._engine.create_conversation
        with reports, _quiet(), talks(messages=before or None) as talk:
            return str(talk.render_message_to_string(last))

    def close(self) -> None:
        with _quiet():
            self._engine.close()


class _Row:
    """The state of a row: the buffers of its cache by name, and the number of tokens in them."""

    def __init__(self, caches: dict[str, Any]) -> None:
        self.caches, self.tokens = caches, 0


def open_litert(folder: Path, opening: Opening) -> LitertRunner:
    """Opens a folder; errors are those of `LitertRunner`."""
    in_float, all_logits = opening.in_float_of is not None, opening.purpose == "scored"
    return LitertRunner(folder, opening.execution.thread_count, in_float=in_float, all_logits=all_logits)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps off stderr what LiteRT says of accelerators when it starts and ends; what matters is an exception."""
    _quiet_at_exit()
    with silent_stderr():
        yield


@cache
def _quiet_at_exit() -> None:
    """Silences stderr for what LiteRT says when the process ends, after all of Python has."""
    atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))
