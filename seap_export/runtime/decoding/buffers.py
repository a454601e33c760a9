"""Buffers for decodings on a GPU, used again by later decodings of the same size together with their CUDA graph."""

from __future__ import annotations

import weakref
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import EnvironmentFailure
from seap_export.runtime.decoding.cache import CacheLayout, SharedCache, empty_buffers
from seap_export.runtime.decoding.steps import CapturedSteps
from seap_export.runtime.decoding.tensors import Element
from seap_export.runtime.onnx_model import NO_GRAPH, OnnxModel

#: ONNX Runtime keeps a captured graph until the session ends, so there are at most this many.
_MOST_GRAPHS = 8


class DecodingBuffers:
    """The buffers of one decoding at a time, and the CUDA graph that is captured with them."""

    def __init__(
        self, model: OnnxModel, layouts: Sequence[CacheLayout], rows: int, capacity: int, graphs: Iterator[int]
    ) -> None:
        """Allocates the caches; `graphs` gives the numbers that are left."""
        self.rows, self.capacity, self.graph, self._graphs = rows, capacity, NO_GRAPH, graphs
        self.logits: NDArray[np.float32] | None = None
        self._model, self._layouts = model, layouts
        self._steps: CapturedSteps | None = None
        with model.failures():
            self._buffers = empty_buffers(layouts, rows, capacity, model.device)

    def cache(self) -> SharedCache:
        return SharedCache(self._layouts, self.rows, self.capacity, self._model.device, self._buffers)

    def steps(self, element: Element, vocabulary: int) -> CapturedSteps:
        """The captured steps, which serve one decoding after another."""
        if self._steps is None:
            self.graph = next(self._graphs, NO_GRAPH)
            shape = (self.rows, self.capacity, vocabulary)
            with self._model.failures():
                self._steps = CapturedSteps(self._model, self.graph, self.cache(), element, shape)
        return self._steps

    def clean(self) -> None:
        """Removes what the decoding before left: states of a fixed size, and a NaN, which harms wherever it is."""
        is_sound = self.logits is not None and np.isfinite(self.logits).all()
        with self._model.failures():
            for layout in self._layouts:
                if not (is_sound and layout.grows):
                    shape = layout.shape(self.rows, self.capacity)
                    self._buffers[layout.past].update_inplace(np.zeros(shape, layout.element.storage))


class BufferPool:
    """Hands out buffers, each to one decoding at a time; decodings may end in any thread."""

    def __init__(self, model: OnnxModel, layouts: Sequence[CacheLayout]) -> None:
        """Starts without any buffers."""
        self._model, self._layouts = model, layouts
        self._free: defaultdict[tuple[int, int], deque[DecodingBuffers]] = defaultdict(deque)
        self._graphs = iter(range(1, _MOST_GRAPHS + 1))

    def take(self, rows: int, capacity: int) -> DecodingBuffers:
        """Buffers of that size; to be called in the model's `turn`."""
        free = self._free[rows, capacity]
        if free:
            buffers = free.pop()
            buffers.clean()
            return buffers
        try:
            return DecodingBuffers(self._model, self._layouts, rows, capacity, self._graphs)
        except EnvironmentFailure:
            self._free.clear()  # buffers of other sizes may hold the memory
            return DecodingBuffers(self._model, self._layouts, rows, capacity, self._graphs)

    def keep_after(self, user: object, buffers: DecodingBuffers) -> None:
        """Frees buffers as soon as its user, a decoding, is no longer referenced."""
        weakref.finalize(user, self._keep, buffers).atexit = False

    def _keep(self, buffers: DecodingBuffers) -> None:
        if buffers.graph != NO_GRAPH:
            self._free[buffers.rows, buffers.capacity].append(buffers)
