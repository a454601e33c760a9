"""Floating-point tensors shared by numpy and ONNX Runtime, including bfloat16, which numpy lacks."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from seap_export.errors import EnvironmentFailure
from seap_export.runtime.providers import TensorDevice


@dataclass(frozen=True)
class Element:
    """A floating-point element type.

    Attributes:
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


def empty(shape: Sequence[int], storage: type[np.generic], device: TensorDevice) -> ort.OrtValue:
    """A tensor on a device, with any content."""
    size = math.prod(shape) * np.dtype(storage).itemsize
    if device.largest is not None and size > device.largest:
        raise EnvironmentFailure(
            f"a cache of {size / 1e9:.2f} GB for one layer does not fit into a tensor of {device.kind}, which has at "
            f"most {device.largest / 1e9:.2f} GB; run fewer prompts at once or shorter ones, or use --provider cpu"
        )
    return ort.OrtValue.ortvalue_from_shape_and_type(shape, storage, device.kind, device.number)


def zeros(shape: Sequence[int], storage: type[np.generic], device: TensorDevice) -> ort.OrtValue:
    """A tensor of zeros on a device; raises what `empty` does."""
    if device.has_addresses:
        return ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, storage), device.kind, device.number)
    value = empty(shape, storage, device)
    value.update_inplace(np.zeros(shape, storage))
    return value


def bind(
    binding: ort.IOBinding, value: ort.OrtValue, element: Element, device: TensorDevice, given: str, taken: str = ""
) -> None:
    """Binds a tensor of a device to an input, or to an output, or both.

    Args:
        element: The element type that the graph has; not every device can make a bfloat16 tensor from numpy.
    """
    if not device.has_addresses:
        for name, method in ((given, binding.bind_ortvalue_input), (taken, binding.bind_ortvalue_output)):
            if name:
                method(name, value)
        return
    memory = (device.kind, device.number, element.onnx, list(value.shape()), value.data_ptr())
    if given:
        binding.bind_input(given, *memory)
    if taken:
        binding.bind_output(taken, *memory)


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
