"""The distance between what a candidate and a reference keep of earlier tokens, such as keys and values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: The states of a layer by name.
Layer = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class CacheFigures:
    """The result of a `CacheComparison`.

    Attributes:
        error: Largest |reference - candidate| of a number, over the root mean square of all keys (or values, or what
            else it is) of that layer in the reference.
        max_abs: Largest |reference - candidate| of any number.
        layer: The layer whose error is the largest.
        part: Which of its states that is in, such as `key`.
        defect: A wrong shape, NaN or infinity, which no limit excuses, in words; "" if there is none.
    """

    error: float
    max_abs: float
    layer: int
    part: str
    defect: str = ""

    @property
    def where(self) -> str:
        """Where the error is, in words."""
        return _words(self.part, self.layer)


def _words(part: str, layer: int) -> str:
    what = f"{part}s" if part in ("key", "value") else f"{part} state"
    return f"in the {what} of layer {layer}"


class CacheComparison:
    """Collects the figures of the rows of a case."""

    def __init__(self) -> None:
        self._error, self._max_abs = -1.0, 0.0
        self._layer_and_part: tuple[int, str] = (0, "key")
        self._defect = ""

    def update(self, reference: Iterable[tuple[int, Layer]], candidate: Iterable[Layer], row: int) -> None:
        """Adds one row: the states of layers that keep any, of which those that the reference has are compared."""
        for (layer, wanted), computed in zip(reference, candidate, strict=True):
            self.add_layer(wanted, computed, row, layer)

    def add_layer(self, wanted: Layer, computed: Layer, row: int, layer: int) -> None:
        """Adds the states of one layer."""
        for part, values in wanted.items():
            self._add(values, computed[part], row, layer, part)

    def figures(self) -> CacheFigures:
        """The figures so far, of at least one row."""
        return CacheFigures(max(self._error, 0.0), self._max_abs, *self._layer_and_part, self._defect)

    def _add(
        self, wanted: NDArray[np.float32], computed: NDArray[np.float32], row: int, layer: int, part: str
    ) -> None:
        where = f"{_words(part, layer)}, row {row}"
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
