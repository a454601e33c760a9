"""Any exporter's graph: numpy arrays in and out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seap_export.common.json_file import read_json
from seap_export.errors import ArtifactError
from seap_export.runtime.session import open_session

_PAST = re.compile(r"past(_key_values)?(?=\.\d+\.\w+$)")
#: The dimension that GenAI's builder declares instead of the head size, which is only in genai_config.json.
_UNTOLD_SIZE = "kv_cache_dim"


class PlainGraph:
    """One growing row on the CPU: the present of a call is the past of the next one, without IO binding."""

    def __init__(self, path: Path, threads: int) -> None:
        self._session = open_session(path, "cpu", threads)
        inputs = {item.name: item for item in self._session.get_inputs()}
        self._empty_cache = {name: _empty(item, path) for name, item in inputs.items() if _PAST.match(name)}
        self._fed = inputs.keys() - self._empty_cache.keys()
        self._outputs = ["logits", *(_PAST.sub("present", name) for name in self._empty_cache)]

    def prefill(self, prompt: Sequence[int]) -> NDArray[np.float32]:
        """Runs a prompt from an empty cache; the logits after it, [vocabulary]."""
        self._cache, self._length = self._empty_cache, 0
        return self._run(prompt)

    def step(self, token: int) -> NDArray[np.float32]:
        """Appends a token; the logits after it, [vocabulary]."""
        return self._run([token])

    def _run(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        length = self._length + len(tokens)
        feeds: dict[str, NDArray[Any]] = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, length), np.int64),
            "position_ids": np.arange(self._length, length)[None],
        }
        fed = {name: feeds[name] for name in self._fed}
        logits, *presents = self._session.run(self._outputs, {**fed, **self._cache})
        self._cache, self._length = dict(zip(self._cache, presents, strict=True)), length
        return logits[0, -1]


def _empty(item: Any, path: Path) -> NDArray[Any]:
    """[1, heads, 0, size] of keys and values, as the graph declares them."""
    shape, dtypes = list(item.shape), {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    if shape[3:] == [_UNTOLD_SIZE]:
        shape[3] = read_json(path.parent / "genai_config.json")["model"]["decoder"]["head_size"]
    if item.type not in dtypes or len(shape) != 4 or not isinstance(shape[1], int) or not isinstance(shape[3], int):
        raise ArtifactError(f"{path}: its input {item.name} is not a cache with fixed heads in float32 or float16")
    return np.zeros((1, shape[1], 0, shape[3]), dtypes[item.type])
