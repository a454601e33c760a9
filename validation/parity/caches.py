"""The distance between the states of a candidate and of a reference, such as keys and values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

#: The states of a layer by name.
Layer = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class CacheFigures:
    """The result of a `CacheComparison`.

    Attributes:
        error: Largest |reference - candidate| of any number, over the root mean square of the state that it is in (all
            keys of a layer, all values, or another state) in the reference.
        max_abs: Largest |reference - candidate| of any number.
        layer: The layer whose error is the largest.
        part: The state of that layer which it is in, such as `key`.
        defect: A wrong shape, NaN or infinity, which no limit excuses, in words; "" if there is none.
    """

    error: float
    max_abs: float
    layer: int
    part: str
    defect: str = ""

    @property
    def where(self) -> str:
        """The state and the layer of the largest error, in words."""
        return _words(self.part, self.layer)


def _words(part: str, layer: int) -> str:
    what = f"{part}s" if part in ("key", "value") else f"{part} state"
    return f"in the {what} of layer {layer}"


class CacheComparison:
    """Compares the cached states of a candidate with the reference's, over all rows of a case."""

    def __init__(self) -> None:
        self._figures = CacheFigures(0.0, 0.0, 0, "key")

    def figures(self) -> CacheFigures:
        """The largest errors of all rows that were compared."""
        return self._figures

    def update(self, reference: Iterable[tuple[int, Layer]], candidate: Iterable[Layer], row: int) -> None:
        """Compares the states of one row, layer by layer, as far as the reference has them."""
        for (layer, wanted), computed in zip(reference, candidate, strict=True):
            self.add_layer(wanted, computed, row, layer)

    def add_layer(self, wanted: Layer, computed: Layer, row: int, layer: int) -> None:
        for part, values in wanted.items():
            of_state = _compared(values, computed[part], row, layer, part)
            worst = max(self._figures, of_state, key=lambda figures: figures.error)
            max_abs = max(self._figures.max_abs, of_state.max_abs)
            self._figures = replace(worst, max_abs=max_abs, defect=self._figures.defect or of_state.defect)


def _compared(
    wanted: NDArray[np.float32], computed: NDArray[np.float32], row: int, layer: int, part: str
) -> CacheFigures:
    """The figures of one state of a row."""
    where = f"{_words(part, layer)}, row {row}"
    if wanted.shape != computed.shape:
        defect = f"a cache of shape {list(computed.shape)} {where}, expected {list(wanted.shape)}"
        return CacheFigures(0.0, 0.0, layer, part, defect)
    if not np.isfinite(computed).all():
        return CacheFigures(0.0, 0.0, layer, part, f"NaN or Inf {where}")
    scale = float(np.sqrt(np.square(wanted, dtype=np.float64).mean())) or 1.0
    largest = float(np.abs(wanted - computed).max(initial=0.0))
    return CacheFigures(largest / scale, largest, layer, part)
