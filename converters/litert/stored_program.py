"""Reads the program in a written bundle: its weights, how it differs from the model's, and a copy in float32."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.format import Place
from converters.litert.bundle import DAMAGES, PROGRAM, Bundle
from converters.litert.packages import schema
from converters.litert.program import ALIGNMENT, Shape, packed
from converters.litert.weights import StoredNumbers


@dataclass(frozen=True)
class _Entry:
    """A tensor whose numbers follow the flatbuffer."""

    dtype: str
    shape: Shape
    offset: int
    scales: NDArray[np.float32] | None
    scale_places: tuple[Place, ...] = ()


class StoredProgram:
    """The program in a bundle. Its weights are read by the first subgraph, which has them all.

    Attributes:
        precision: `int8` or `fp32`.
        places: The bytes that were read for weights until now.

    Raises:
        ArtifactError: The program is damaged.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle, self._span, self.places = bundle, bundle.span(PROGRAM), list[Place]()
        try:
            self._entries = dict(self._read())
            if not self._entries:
                raise ValueError("a program without weights")
        except DAMAGES as error:
            raise bundle.damaged(error) from error
        self.precision = "fp32" if all(entry.scales is None for entry in self._entries.values()) else "int8"

    def _read(self) -> Any:
        model = schema().Model.GetRootAs(self._bundle.data, self._span.start)
        graph, types = model.Subgraphs(0), schema().TensorType
        for index in range(graph.TensorsLength()):
            tensor = graph.Tensors(index)
            buffer, how = model.Buffers(tensor.Buffer()), tensor.Quantization()
            if buffer.Offset() > 1:
                dtype = {types.INT8: "int8", types.FLOAT32: "float32"}[tensor.Type()]
                stored = None if how is None else how.ScaleAsNumpy()
                scales = None if stored is None else np.array(stored, np.float32)
                shape = tuple(int(size) for size in tensor.ShapeAsNumpy())
                yield tensor.Name().decode(), _Entry(dtype, shape, buffer.Offset(), scales, self._places(stored))

    def _places(self, array: NDArray[Any] | None) -> tuple[Place, ...]:
        """Where numbers lie that flatbuffers have not copied."""
        if array is None:
            return ()
        start = array.ctypes.data - np.frombuffer(self._bundle.data, np.uint8).ctypes.data
        return (Place(self._bundle.path, start, start + array.nbytes),)

    def numbers(self, name: str, shape: Shape) -> StoredNumbers:
        """The stored numbers of a tensor; raises `ArtifactError` if it is missing or has another shape."""
        entry = self._entries.get(name)
        if entry is None or entry.shape != shape or (entry.scales is not None and len(entry.scales) != shape[0]):
            raise self._bundle.damaged(f"'{name}' is missing, or of another shape")
        start = self._span.start + entry.offset
        if start + prod(shape) * np.dtype(entry.dtype).itemsize > self._span.stop:
            raise self._bundle.damaged("truncated")
        numbers = np.frombuffer(self._bundle.data, entry.dtype, prod(shape), start).reshape(shape)
        self.places += [Place(self._bundle.path, start, start + numbers.nbytes), *entry.scale_places]
        return StoredNumbers(numbers, entry.scales)

    def in_float(self) -> bytes:
        """The program with its weights dequantised, so that no kernel rounds activations."""
        model = schema().ModelT.InitFromPackedBuf(self._bundle.data, self._span.start)
        tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
        weights = {tensor.buffer: tensor.name.decode() for tensor in tensors if tensor.name.decode() in self._entries}
        for tensor in tensors:
            if tensor.buffer in weights:
                tensor.type, tensor.quantization = schema().TensorType.FLOAT32, None
        end = len(packed(model))  # offsets take as many bytes whatever they are
        for index, name in weights.items():
            shape = self._entries[name].shape
            model.buffers[index].offset = -(-end // ALIGNMENT) * ALIGNMENT
            model.buffers[index].size = prod(shape) * np.dtype(np.float32).itemsize
            end = model.buffers[index].offset + model.buffers[index].size
        whole, flatbuffer = bytearray(end), packed(model)
        whole[: len(flatbuffer)] = flatbuffer
        for index, name in weights.items():
            numbers = self.numbers(name, self._entries[name].shape).rows()
            start = model.buffers[index].offset
            whole[start : start + numbers.nbytes] = numbers.tobytes()
        return bytes(whole)
