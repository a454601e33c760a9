"""How programs store weights: in float32, or int8 with a scale for each row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from converters.litert.program import Weight
from converters.read_back import not_finite

#: The largest level; -128 is not used, so that levels are symmetric.
_LARGEST = 127


@dataclass(frozen=True)
class StoredNumbers:
    """The stored numbers of a tensor, with scales if they are quantised.

    Attributes:
        numbers: float32, or int8 levels [rows, columns].
        scales: Scales of the rows, float32 [rows]; None: the numbers are not quantised.
    """

    numbers: NDArray[np.float32] | NDArray[np.int8]
    scales: NDArray[np.float32] | None = None

    def rows(self, rows: slice = slice(None)) -> NDArray[np.float32]:
        """The rows in a slice, dequantised to float32."""
        part = self.numbers[rows].astype(np.float32)
        return part if self.scales is None else part * self.scales[rows, None]


def stored_numbers(weight: Weight, tensor: torch.Tensor) -> StoredNumbers:
    """Converts a tensor of the model to the form that `weight` says, quantising it if it is to be int8."""
    numbers: NDArray[np.float32] = tensor.float().contiguous().numpy()
    if not np.isfinite(numbers.min(initial=0.0) + numbers.max(initial=0.0)):
        raise not_finite(weight.name)
    if not weight.is_rounded:
        return StoredNumbers(numbers)
    largest = np.maximum(numbers.max(1), -numbers.min(1))
    scales = np.where(largest == 0, np.float32(1), largest / np.float32(_LARGEST)).astype(np.float32)
    levels = np.rint(numbers / scales[:, None])
    return StoredNumbers(np.clip(levels, -_LARGEST, _LARGEST).astype(np.int8), scales)
