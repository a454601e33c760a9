"""Runs an exported decoder: a prompt, then more tokens, with the KV cache the graph declares.

Batches are padded on the RIGHT; each decode step adds a 1 to the end of every row of the mask. GroupQueryAttention
derives everything from each row's number of ones: a step writes row b's new key and value at position
sum(mask[b]) - 1, so a row's cache stays contiguous and whatever follows it is ignored. Attention of the ONNX standard
takes the mask as it is: the new key and value come after the padding, which stays hidden.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from seap_export.errors import ArtifactError, EnvironmentFailure, ParityFailure
from seap_export.runtime.decoder import CACHE_KEY
from seap_export.runtime.providers import one_line
from seap_export.runtime.session import ORT_ERRORS
from seap_export.runtime.tensors import ELEMENTS, Element, float32_of, view

__all__ = ["OnnxRunner"]

Logits = NDArray[np.floating]
_CACHE_INPUT = re.compile(r"past_key_values\.\d+\.(key|value)")


class OnnxRunner:
    """Runs one generation after another with one session; `prefill` starts a new one, `step` continues it.

    Attributes:
        gives_last_only: Whether the graph gives the logits of each row's last token only.
        tapped: The further outputs of the latest call, by name, in float32.
    """

    def __init__(self, session: ort.InferenceSession, taps: Sequence[str] = ()) -> None:
        """Reads each layer's KV heads from the session's inputs.

        Args:
            session: A graph with the inputs input_ids, attention_mask and past_key_values.{i}.key/.value, and
                the outputs logits and present.{i}.key/.value.
            taps: Further outputs to compute in each call.

        Raises:
            ArtifactError: The graph has other inputs or outputs, or does not fix a layer's KV heads and head size.
        """
        self._session = session
        inputs = {item.name: item for item in session.get_inputs()}
        caches = {name: item for name, item in inputs.items() if _CACHE_INPUT.fullmatch(name)}
        unknown = sorted(inputs.keys() - caches.keys() - {"input_ids", "attention_mask"})
        if unknown or not caches or not {"input_ids", "attention_mask"} <= inputs.keys():
            raise ArtifactError(
                f"the ONNX graph's inputs are not those of a decoder with a KV cache: {list(inputs)}; export it again"
            )
        self._empty = {name: _empty_cache(item) for name, item in caches.items()}
        self._taps = list(taps)
        self.tapped: dict[str, NDArray[np.float32]] = {}
        self._outputs = ["logits", *(name.replace("past_key_values", "present") for name in caches), *self._taps]
        outputs = session.get_outputs()
        missing = sorted(set(self._outputs) - {item.name for item in outputs})
        if missing:
            raise ArtifactError(f"the ONNX graph lacks the outputs {', '.join(missing)}; export it again")
        self.gives_last_only = next(item.shape[1:2] == [1] for item in outputs if item.name == "logits")
        self._is_contiguous = session.get_modelmeta().custom_metadata_map.get(CACHE_KEY, "shared") == "shared"
        self._past: dict[str, ort.OrtValue] = {}
        self._mask: NDArray[np.int64] = np.zeros((0, 0), np.int64)

    def prefill(self, input_ids: NDArray[np.int64], lengths: Sequence[int]) -> Logits:
        """Runs the prompts from an empty cache.

        Args:
            input_ids: int64 [B, S], padded on the right with any token.
            lengths: The real tokens of each row, 1 to S; logits after them mean nothing.

        Returns:
            [B, S, V], or [B, 1, V] where the graph gives the logits of each row's last token only.

        Raises:
            ParityFailure: The graph does not run, or returns logits of another shape.
        """
        rows, width = input_ids.shape
        real = np.asarray(lengths, np.int64)
        if real.shape != (rows,) or real.min() < 1 or real.max() > width:
            raise ValueError(f"lengths {list(lengths)} do not fit input_ids of shape {list(input_ids.shape)}")
        self._mask = (np.arange(width) < real[:, None]).astype(np.int64)
        self._past = {name: cache.values(rows) for name, cache in self._empty.items()}
        return self._run(input_ids, what="prefill")

    def append(self, input_ids: NDArray[np.int64]) -> Logits:
        """Appends tokens to each row.

        Args:
            input_ids: int64 [B, S], all of them real. With a cache, GroupQueryAttention on the CPU takes more than one
                token for a single row only.

        Returns:
            [B, S, V], or [B, 1, V] where the graph gives the logits of each row's last token only.

        Raises:
            ParityFailure: The graph does not run, or returns logits of another shape.
        """
        if not self._past:
            raise ValueError("tokens are appended before there is a prompt")
        self._mask = np.concatenate([self._mask, np.ones_like(input_ids)], axis=1)
        return self._run(input_ids, what="a decode step")

    def step(self, next_ids: Sequence[int]) -> Logits:
        """Appends one token to each row [B] and returns the logits [B, V]; errors are those of `append`."""
        return self.append(np.asarray(next_ids, np.int64)[:, None])[:, 0]

    def takes_left_padding(self) -> bool:
        """Whether a row that is padded on the left runs; earlier tokens are forgotten."""
        self._mask = np.array([[1, 1, 1], [0, 1, 1]], np.int64)
        self._past = {name: cache.values(2) for name, cache in self._empty.items()}
        try:
            self._run(np.zeros((2, 3), np.int64), what="a row padded on the left")
        except ParityFailure:
            return False
        return True

    def cache(self, row: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """The keys and values of each layer, [KV heads, tokens of the row, head_dim]."""
        real = self._mask[row]
        places = np.arange(real.sum()) if self._is_contiguous else np.flatnonzero(real)
        names = list(self._empty)
        for key, value in zip(names[::2], names[1::2], strict=True):
            yield self._positions(key, row, places), self._positions(value, row, places)

    def _positions(self, name: str, row: int, places: NDArray[np.intp]) -> NDArray[np.float32]:
        element = self._empty[name].element
        stored = view(self._past[name], element)[row]
        return float32_of(stored[:, places[places < stored.shape[1]]], element)

    def _run(self, input_ids: NDArray[np.int64], what: str) -> Logits:
        tokens = {"input_ids": input_ids, "attention_mask": self._mask}
        feeds = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in tokens.items()}
        try:
            found, *others = self._session.run_with_ort_values(self._outputs, feeds | self._past)
        except ORT_ERRORS as error:
            raise _run_failure(what, error) from error
        logits: Logits = found.numpy()
        rows, length = input_ids.shape[0], 1 if self.gives_last_only else input_ids.shape[1]
        if logits.ndim != 3 or logits.shape[:2] != (rows, length):
            raise ParityFailure(
                f"the ONNX graph's logits of {what} have the shape {list(logits.shape)}; expected "
                f"[{rows}, {length}, vocabulary]"
            )
        self._past = dict(zip(self._past, others, strict=False))
        tapped = others[len(self._past) :]
        self.tapped = {name: _float32(value) for name, value in zip(self._taps, tapped, strict=True)}
        return logits


@dataclass(frozen=True)
class _EmptyCache:
    """A cache input of the graph before the first token."""

    heads: int
    size: int
    element: Element

    def values(self, rows: int) -> ort.OrtValue:
        """[rows, KV heads, 0, head size]."""
        nothing = np.zeros((rows, self.heads, 0, self.size), self.element.storage)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(nothing, self.element.onnx)


def _empty_cache(item: Any) -> _EmptyCache:
    _, heads, _, size = item.shape
    if not isinstance(heads, int) or not isinstance(size, int) or item.type not in ELEMENTS:
        raise ArtifactError(
            f"the ONNX graph's input {item.name} is {item.type} {item.shape}; expected a float32, float16 or bfloat16 "
            "tensor with a fixed number of KV heads in dimension 1 and a fixed head size in dimension 3"
        )
    return _EmptyCache(heads, size, ELEMENTS[item.type])


def _float32(value: ort.OrtValue) -> NDArray[np.float32]:
    element = ELEMENTS[value.data_type()]
    return np.array(float32_of(view(value, element), element))


def _run_failure(what: str, error: Exception) -> Exception:
    reason = one_line(error)
    if "alloc" in reason:
        return EnvironmentFailure(f"not enough memory to run {what} of the ONNX graph: {reason}")
    return ParityFailure(f"the ONNX graph does not run {what}: {reason}")
