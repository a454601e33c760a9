"""Runs any exporter's decoder graph in a session in the simplest way: numpy arrays in, numpy arrays out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import ArtifactError
from seap_export.runtime.session import open_session

_PAST = re.compile(r"past(_key_values)?(?=\.\d+\.\w+$)")
#: The states that have a place for each token.
_APPENDED = ("key", "value")
_FED = {"input_ids", "attention_mask", "position_ids"}
#: The dimension that GenAI's builder declares instead of the head size, which is only in genai_config.json.
_UNTOLD_SIZE = "kv_cache_dim"
_DTYPES: dict[str, type[np.generic]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class PlainGraph:
    """One growing row: the present of a call is the past of the next one, without IO binding."""

    def __init__(self, path: Path, threads: int) -> None:
        """Opens the graph on the CPU.

        Raises:
            ArtifactError: It cannot be loaded, or has an input or output that is not known here.
        """
        self._session = open_session(path, "cpu", threads)
        inputs = {item.name: item for item in self._session.get_inputs()}
        pasts = {name: _empty(item, path) for name, item in inputs.items() if _PAST.match(name)}
        strange = inputs.keys() - pasts.keys() - _FED
        if strange or not pasts:
            raise ArtifactError(f"{path}: not a decoder with a supported cache: {sorted(strange) or 'no cache'}")
        self._empty_cache, self._fed = pasts, inputs.keys() & _FED
        self._positions_shape = (
            (3, 1, -1) if "position_ids" in inputs and len(inputs["position_ids"].shape) == 3 else (1, -1)
        )
        self._outputs = ["logits", *(_PAST.sub("present", name) for name in pasts)]
        missing = set(self._outputs) - {item.name for item in self._session.get_outputs()}
        if missing:
            raise ArtifactError(f"{path}: it has no output {sorted(missing)[0]}")
        self._cache, self._length = pasts, 0

    def prefill(self, prompt: Sequence[int]) -> NDArray[np.float32]:
        """Runs a prompt from an empty cache; the logits after it, [vocabulary]."""
        self._cache, self._length = self._empty_cache, 0
        return self._run(prompt)

    def step(self, token: int) -> NDArray[np.float32]:
        """Appends a token; the logits after it, [vocabulary]."""
        return self._run([token])

    def follow(self, prompt: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits after the prompt and after each of the tokens that follow it, [1 + tokens, vocabulary]."""
        return np.stack([self.prefill(prompt), *map(self.step, tokens)])

    def continue_greedily(self, prompt: Sequence[int], steps: int) -> list[int]:
        """The most likely token after the prompt, and after each of `steps` steps: 1 + `steps` tokens."""
        tokens = [int(self.prefill(prompt).argmax())]
        for _ in range(steps):
            tokens.append(int(self.step(tokens[-1]).argmax()))
        return tokens

    def _run(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        length = self._length + len(tokens)
        feeds: dict[str, NDArray[Any]] = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, length), np.int64),
            "position_ids": np.broadcast_to(
                np.arange(self._length, length), (*self._positions_shape[:-1], len(tokens))
            ),
        }
        fed = {name: feeds[name] for name in self._fed}
        logits, *presents = self._session.run(self._outputs, {**fed, **self._cache})
        self._cache, self._length = dict(zip(self._cache, presents, strict=True)), length
        return logits[0, -1]


def _empty(item: Any, path: Path) -> NDArray[Any]:
    """[1, heads, 0, size] of keys and values, as the graph declares them, or another state of a fixed size."""
    shape, dtype = list(item.shape), _DTYPES.get(item.type)
    if shape[3:] == [_UNTOLD_SIZE]:
        shape[3] = json.loads((path.parent / "genai_config.json").read_text("utf-8"))["model"]["decoder"]["head_size"]
    if dtype is not None and not item.name.endswith(_APPENDED) and all(isinstance(size, int) for size in shape[1:]):
        return np.zeros((1, *shape[1:]), dtype)
    if dtype is None or len(shape) != 4 or not isinstance(shape[1], int) or not isinstance(shape[3], int):
        raise ArtifactError(f"{path}: its input {item.name} is not a cache with fixed heads in float32 or float16")
    return np.zeros((1, shape[1], 0, shape[3]), dtype)
