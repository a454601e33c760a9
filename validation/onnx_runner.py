"""Runs an exported decoder: a prompt, then one token at a time, with the KV cache the graph declares.

Batches are padded on the RIGHT; each decode step adds a 1 to the end of every row of the mask. GroupQueryAttention
derives everything from each row's number of ones: a step writes row b's new key and value at position
sum(mask[b]) - 1, so a row's cache stays contiguous and what lies behind it is ignored. Attention of the ONNX standard
takes the mask as it is: the new key and value stand behind the padding, which stays hidden.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import ArtifactError, EnvironmentFailure, ParityFailure
from seap_export.runtime.providers import one_line
from seap_export.runtime.session import ORT_ERRORS

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["OnnxRunner"]

Logits = NDArray[np.floating]
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_CACHE_INPUT = re.compile(r"past_key_values\.\d+\.(key|value)")


class OnnxRunner:
    """One generation after another with one session; `prefill` starts anew, `step` goes on."""

    def __init__(self, session: ort.InferenceSession) -> None:
        """Reads each layer's KV heads from the session's inputs.

        Args:
            session: A graph with the inputs input_ids, attention_mask and past_key_values.{i}.key/.value, and
                the outputs logits and present.{i}.key/.value.

        Raises:
            ArtifactError: The graph has other inputs or outputs, or does not fix a layer's KV heads and head size.
        """
        self._session = session
        inputs = {item.name: item for item in session.get_inputs()}
        caches = {name: item for name, item in inputs.items() if _CACHE_INPUT.fullmatch(name)}
        unknown = sorted(inputs.keys() - caches.keys() - {"input_ids", "attention_mask"})
        if unknown or not caches or not {"input_ids", "attention_mask"} <= inputs.keys():
            raise ArtifactError(f"the ONNX graph's inputs are not those of a decoder with a KV cache: {list(inputs)}")
        self._empty = {name: _empty_cache(item) for name, item in caches.items()}
        self._outputs = ["logits", *(name.replace("past_key_values", "present") for name in caches)]
        missing = sorted(set(self._outputs) - {item.name for item in session.get_outputs()})
        if missing:
            raise ArtifactError(f"the ONNX graph lacks the outputs {', '.join(missing)}")
        self._past: dict[str, NDArray[np.floating]] = {}
        self._mask: NDArray[np.int64] = np.zeros((0, 0), np.int64)

    def prefill(self, input_ids: NDArray[np.int64], lengths: Sequence[int]) -> Logits:
        """Runs the prompts from an empty cache.

        Args:
            input_ids: int64 [B, S], padded on the right with any token.
            lengths: The real tokens of each row, 1 to S; logits behind them mean nothing.

        Returns:
            [B, S, V].

        Raises:
            ParityFailure: The graph does not run, or returns logits of another shape.
        """
        rows, width = input_ids.shape
        real = np.asarray(lengths, np.int64)
        if real.shape != (rows,) or real.min() < 1 or real.max() > width:
            raise ValueError(f"lengths {list(lengths)} do not fit input_ids of shape {list(input_ids.shape)}")
        self._mask = (np.arange(width) < real[:, None]).astype(np.int64)
        self._past = {name: np.repeat(cache, rows, axis=0) for name, cache in self._empty.items()}
        return self._run(input_ids, what="prefill")

    def step(self, next_ids: Sequence[int]) -> Logits:
        """Appends one token to each row.

        Args:
            next_ids: The token of each row [B].

        Returns:
            [B, V], the logits that follow the new tokens.

        Raises:
            ParityFailure: The graph does not run, or returns logits of another shape.
        """
        if not self._past:
            raise ValueError("step before prefill")
        input_ids = np.asarray(next_ids, np.int64)[:, None]
        self._mask = np.concatenate([self._mask, np.ones_like(input_ids)], axis=1)
        return self._run(input_ids, what="a decode step")[:, 0]

    def _run(self, input_ids: NDArray[np.int64], what: str) -> Logits:
        feeds = {"input_ids": input_ids, "attention_mask": self._mask, **self._past}
        try:
            logits, *present = self._session.run(self._outputs, feeds)
        except ORT_ERRORS as error:
            raise _run_failure(what, error) from error
        if logits.ndim != 3 or logits.shape[:2] != input_ids.shape:
            raise ParityFailure(
                f"the ONNX graph's logits of {what} have the shape {list(logits.shape)}; expected "
                f"[{input_ids.shape[0]}, {input_ids.shape[1]}, vocabulary]"
            )
        self._past = dict(zip(self._past, present, strict=True))
        return logits


def _empty_cache(item: Any) -> NDArray[np.floating]:
    """[1, KV heads, 0, head size] for one cache input of the graph."""
    _, heads, _, size = item.shape
    if not isinstance(heads, int) or not isinstance(size, int) or item.type not in _DTYPES:
        raise ArtifactError(
            f"the ONNX graph's input {item.name} is {item.type} {item.shape}; expected a float32 or float16 tensor "
            "with a fixed number of KV heads in dimension 1 and a fixed head size in dimension 3"
        )
    return np.zeros((1, heads, 0, size), _DTYPES[item.type])


def _run_failure(what: str, error: Exception) -> Exception:
    reason = one_line(error)
    if "alloc" in reason:
        return EnvironmentFailure(f"not enough memory to run {what} of the ONNX graph: {reason}")
    return ParityFailure(f"the ONNX graph does not run {what}: {reason}")
