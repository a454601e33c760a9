"""Decode steps: bound to arrays of the host, or captured as a CUDA graph that works on fixed buffers of the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from seap_export.runtime.decoding.cache import Cache, SharedCache
from seap_export.runtime.decoding.tensors import Element, zeros
from seap_export.runtime.onnx_model import OnnxModel


class Steps(Protocol):
    """Runs the steps of a decoding."""

    def run(self, tokens: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[Any]:
        """Appends a token to each row.

        Args:
            tokens: int64 [rows, 1].

        Returns:
            The next logits, [rows, vocabulary] as the graph stores them; the next step may overwrite them.
        """


class BoundSteps:
    """Steps whose tokens and logits are arrays of the host. For a graph on a GPU, ONNX Runtime copies them."""

    def __init__(
        self, model: OnnxModel, binding: ort.IOBinding, cache: Cache, element: Element, rows: int, vocabulary: int
    ) -> None:
        """Binds one buffer for the logits of all steps; `binding` is that of the prompt."""
        self._model, self._binding, self._cache = model, binding, cache
        self._bound: dict[str, NDArray[np.int64]] = {}
        self._logits = np.empty((rows, 1, vocabulary), element.storage)
        shape, address = list(self._logits.shape), self._logits.ctypes.data
        binding.bind_output("logits", "cpu", 0, element.onnx, shape, address)

    def run(self, tokens: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[Any]:
        """Runs a step on the host's arrays; see `Steps.run`."""
        self._bind("input_ids", tokens)
        self._bind("attention_mask", mask)
        self._cache.bind(self._binding)
        self._model.run_bound(self._binding)
        self._cache.advance(self._binding)
        return self._logits[:, 0]

    def _bind(self, name: str, array: NDArray[np.int64]) -> None:
        """Binds an input; an array that is already bound is read in place, but a GPU session copies it."""
        if self._bound.get(name) is not array or self._model.device.kind != "cpu":
            self._binding.bind_cpu_input(name, array)
            self._bound[name] = array


class CapturedSteps:
    """Steps captured as a CUDA graph: one launch each, with tokens, mask, caches and logits in buffers of the GPU."""

    def __init__(
        self, model: OnnxModel, graph: int, cache: SharedCache, element: Element, shape: Sequence[int]
    ) -> None:
        """Allocates what a step needs besides the caches."""
        self._model, self._graph, self._binding, self._cache = model, graph, model.binding(), cache
        rows, capacity, vocabulary = shape
        # The mask and the tokens in one piece, since each copy makes the host wait.
        self._given = np.zeros(rows * capacity + rows, np.int64)
        self._inputs = zeros(self._given.shape, np.int64, model.device)
        self._logits = zeros((rows, 1, vocabulary), element.storage, model.device)
        gpu, address = (model.device.kind, model.device.number), self._inputs.data_ptr()
        self._binding.bind_input("attention_mask", *gpu, np.int64, [rows, capacity], address)
        address += rows * capacity * self._given.itemsize
        self._binding.bind_input("input_ids", *gpu, np.int64, [rows, 1], address)
        self._binding.bind_output("logits", *gpu, element.onnx, [rows, 1, vocabulary], self._logits.data_ptr())
        cache.bind(self._binding)

    def run(self, tokens: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[Any]:
        """Copies tokens and mask to the GPU and runs a step there; see `Steps.run`."""
        self._given[: mask.size] = mask.ravel()
        self._given[mask.size :] = tokens[:, 0]
        with self._model.failures():
            self._inputs.update_inplace(self._given)
            self._model.run_bound(self._binding, self._graph)
            self._cache.advance(self._binding)
            return self._logits.numpy()[:, 0]
