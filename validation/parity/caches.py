"""The distance between the keys and values in a candidate's cache and a reference's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["CacheComparison", "CacheFigures", "Part"]

Part = Literal["key", "value"]
Layer = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class CacheFigures:
    """The result of a `CacheComparison`.

    Attributes:
        error: Largest |reference - candidate| of a number, over the root mean square of all keys (or values) of that
            layer in the reference.
        max_abs: Largest |reference - candidate| of any number.
        layer: The layer whose error is the largest.
        part: Whether that is in its keys or its values.
        defect: A wrong shape, NaN or infinity, which no limit excuses, in words; "" if there is none.
    """

    error: float
    max_abs: float
    layer: int
    part: Part
    defect: str = ""


class CacheComparison:
    """Collects the figures of the rows of a case."""

    def __init__(self) -> None:
        self._error, self._max_abs = -1.0, 0.0
        self._layer_and_part: tuple[int, Part] = (0, "key")
        self._defect = ""

    def update(self, reference: Iterable[Layer], candidate: Iterable[Layer], row: int) -> None:
        """Adds one row: the keys and values [KV heads, tokens, head_dim] of each layer."""
        for layer, (wanted, computed) in enumerate(zip(reference, candidate, strict=True)):
            self.add_layer(wanted, computed, row, layer)

    def add_layer(self, wanted: Layer, computed: Layer, row: int, layer: int) -> None:
        """Adds the keys and values of one layer."""
        self._add(wanted[0], computed[0], row, layer, "key")
        self._add(wanted[1], computed[1], row, layer, "value")

    def figures(self) -> CacheFigures:
        """The figures so far, of at least one row."""
        return CacheFigures(max(self._error, 0.0), self._max_abs, *self._layer_and_part, self._defect)

    def _add(
        self, wanted: NDArray[np.float32], computed: NDArray[np.float32], row: int, layer: int, part: Part
    ) -> None:
        where = f"in the {part}s of layer {layer}, row {row}"
        if wanted.shape != computed.shape:
            self._note(f"a cache of shape {list(computed.shape)} {where}, expected {list(wanted.shape)}")
            return
        if not np.isfinite(computed).all():
            self._note(f"NaN or Inf {where}")
            return
        scale = float(np.sqrt(np.square(wanted, dtype=np.float64).mean())) or 1.0
        largest = float(np.abs(wanted - computed).max(initial=0.0))
        self._max_abs = max(self._max_abs, largest)
        if largest / scale > self._error:
            self._error, self._layer_and_part = largest / scale, (layer, part)

    def _note(self, defect: str) -> None:
        self._defect = self._defect or defect
