"""The KV cache of a decoding: written in place where the graph can do that, else grown by a copy a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from seap_export.runtime.tensors import Element

__all__ = ["AppendedCache", "Cache", "CacheLayout", "SharedCache"]


@dataclass(frozen=True)
class CacheLayout:
    """One cache input of a graph and the output that follows it.

    Attributes:
        past: Name of the input, such as `past_key_values.0.key`.
        heads: KV heads.
        size: Width of a head.
        element: Type of its numbers.
    """

    past: str
    heads: int
    size: int
    element: Element

    @property
    def present(self) -> str:
        """Name of the output."""
        return self.past.replace("past_key_values", "present")

    def zeros(self, rows: int, positions: int, device: str) -> ort.OrtValue:
        """[rows, heads, positions, size] in storage on the device."""
        empty = np.zeros((rows, self.heads, positions, self.size), self.element.storage)
        return ort.OrtValue.ortvalue_from_numpy(empty, device, 0)


class Cache(Protocol):
    """What a decoding asks of its cache."""

    def mask(self, is_real: NDArray[np.int64]) -> NDArray[np.int64]:
        """The attention mask of the next call, int64 [rows, positions].

        Args:
            is_real: 1 for the tokens of the call that belong to their row, 0 for padding; int64 [rows, length].
        """

    def bind(self, binding: ort.IOBinding) -> None:
        """Makes the next call read and write the cache; one output, `logits`, is bound already."""

    def advance(self, binding: ort.IOBinding) -> None:
        """Takes over what the call gave; the caches are the outputs after the first."""


class SharedCache:
    """Buffers of a fixed capacity, each bound as past and as present.

    GroupQueryAttention sees that both are the same memory and writes only the new positions: row b's go to
    sum(mask[b]) - 1. Nothing is copied, and nothing is allocated after the start. The mask of the steps is as wide as
    the capacity, so that every step has the same shapes, for which ONNX Runtime has all buffers at hand.
    """

    def __init__(self, layouts: Sequence[CacheLayout], rows: int, capacity: int, device: str) -> None:
        """Allocates it, filled with zeros."""
        self._layouts, self._rows, self._capacity, self._device = layouts, rows, capacity, device
        self._lengths = [0] * rows
        self._mask = np.zeros((rows, capacity), np.int64)
        self.buffers = {layout.past: layout.zeros(rows, capacity, device) for layout in layouts}
        self._is_bound = False

    def mask(self, is_real: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ones for each row's tokens, then zeros.

        That of the prompts, the first call's, is as wide as the longest: a wider one would tell GroupQueryAttention
        that something lies before them. That of a step, of one token a row, is one array for all steps, changed in
        place. A row without a real token in the call overwrites its last position.

        Raises:
            ValueError: The cache has no such position.
        """
        is_prompt = not any(self._lengths)
        # Few calls of numpy: behind a run, which has emptied the processor's caches, each takes ten microseconds.
        grown = is_real.sum(axis=1).tolist() if is_prompt else is_real[:, 0].tolist()
        self._lengths = [length + new for length, new in zip(self._lengths, grown, strict=True)]
        longest = max(self._lengths)
        if longest > self._capacity:
            raise ValueError(f"a row of {longest} tokens does not fit a cache of {self._capacity}")
        if is_prompt:
            self._mask[:] = np.arange(self._capacity) < np.array(self._lengths)[:, None]
            return self._mask[:, :longest].copy()
        for row, length in enumerate(self._lengths):
            self._mask[row, length - 1] = 1
        return self._mask

    def bind(self, binding: ort.IOBinding) -> None:
        """Binds all buffers once; they never move. A decoding has one binding for all its calls."""
        if self._is_bound:
            return
        for layout in self._layouts:
            # By address: a bfloat16 tensor cannot be made from numpy on every device.
            shape = [self._rows, layout.heads, self._capacity, layout.size]
            place = (self._device, 0, layout.element.onnx, shape, self.buffers[layout.past].data_ptr())
            binding.bind_input(layout.past, *place)
            binding.bind_output(layout.present, *place)
        self._is_bound = True

    def advance(self, binding: ort.IOBinding) -> None:
        """Nothing to do: the call has written into the buffers."""


class AppendedCache:
    """What a call gave as present is the next call's past: for graphs that put past and new side by side.

    New positions stand behind all others, padding included, which the mask hides.
    """

    def __init__(self, layouts: Sequence[CacheLayout], rows: int, device: str) -> None:
        """Starts empty."""
        self._layouts, self._rows, self._positions, self._device = layouts, rows, 0, device
        self._mask = np.zeros((rows, 0), np.int64)
        self.buffers = {layout.past: layout.zeros(rows, 0, device) for layout in layouts}

    def mask(self, is_real: NDArray[np.int64]) -> NDArray[np.int64]:
        """That of the call before, and behind it the new tokens: padding stays where it was."""
        self._mask = np.concatenate([self._mask, is_real], axis=1)
        return self._mask

    def bind(self, binding: ort.IOBinding) -> None:
        """Binds what there is as past; present is allocated by the call."""
        for layout in self._layouts:
            value = self.buffers[layout.past]
            shape = [self._rows, layout.heads, self._positions, layout.size]
            binding.bind_input(layout.past, self._device, 0, layout.element.onnx, shape, value.data_ptr())
            binding.bind_output(layout.present, self._device)

    def advance(self, binding: ort.IOBinding) -> None:
        """The presents are the pasts of the next call."""
        names = [layout.past for layout in self._layouts]
        self.buffers = dict(zip(names, binding.get_outputs()[1:], strict=True))
        self._positions = next(iter(self.buffers.values())).shape()[2]
