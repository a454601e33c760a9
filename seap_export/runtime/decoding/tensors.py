"""Floating-point tensors shared by numpy and ONNX Runtime, including bfloat16, which numpy lacks."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from seap_export.runtime.providers import TensorDevice


@dataclass(frozen=True)
class Element:
    """A floating-point element type.

    Attributes:
        onnx: Its number in ONNX.
        storage: The numpy type that holds its bits.
    """

    onnx: int
    storage: type[np.generic]


#: Keyed by ONNX Runtime's name for tensors of the type.
ELEMENTS = {
    "tensor(float)": Element(1, np.float32),
    "tensor(float16)": Element(10, np.float16),
    "tensor(bfloat16)": Element(16, np.uint16),
}


def zeros(shape: Sequence[int], storage: type[np.generic], device: TensorDevice) -> ort.OrtValue:
    """A tensor of zeros on a device."""
    return ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, storage), device.kind, device.number)


def view(value: ort.OrtValue, element: Element) -> NDArray[Any]:
    """The memory of a CPU tensor as an array of `element.storage`, not a copy; it must outlive the array."""
    memory = (ctypes.c_ubyte * value.tensor_size_in_bytes()).from_address(value.data_ptr())
    return np.frombuffer(memory, element.storage).reshape(value.shape())


def narrowed(array: NDArray[np.float32], element: Element) -> NDArray[Any]:
    """Numbers that an element type holds exactly, as `element.storage`."""
    if element.storage is np.uint16:
        bits: NDArray[np.uint16] = (array.view(np.uint32) >> 16).astype(np.uint16)
        return bits
    return array.astype(element.storage)


def float32_of(array: NDArray[Any], element: Element) -> NDArray[np.float32]:
    """Converts stored numbers to float32; returns `array` itself if it is float32 already."""
    if element.storage is np.uint16:  # bfloat16 is the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)
