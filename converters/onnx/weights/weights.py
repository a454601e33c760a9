"""Weights as tensors of an ONNX graph that are read, checked and laid out only when they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor

from converters.onnx.precision import Precision
from converters.onnx.weights.parts import PartsReader
from converters.onnx.weights.quantize import QuantizedMatrix, as_columns, as_nibbles, quantize
from converters.onnx.weights.scaling import ScaledReader
from converters.read_back import not_finite
from seap_export.errors import InputError
from seap_export.model.families import ModelSpec
from seap_export.model.sources.stored import PlainReader, StoredForm
from seap_export.model.sources.weights import SafetensorsReader, WeightReader, check_weights
from seap_export.pruning.rounding.grid import WHOLE_ROW, BlockQuantization
from seap_export.pruning.rounding.table_rows import TableRows

#: Tensors up to this size, such as shapes and scalars, are stored in the graph itself.
INLINE_BYTES = 48
#: Elements that are converted at a time: of a large vocabulary's table, a whole copy in float32 takes gigabytes.
_ELEMENTS = 1 << 24

_TORCH = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
}

Pieces = Iterator[torch.Tensor]
Part = Callable[[QuantizedMatrix], torch.Tensor]


@dataclass(frozen=True)
class QuantizedTensors:
    """The parts of a `QuantizedMatrix` as tensors of a graph; scales have 16 bits whatever the precision.

    Levels of whole rows are as `as_columns` makes them. Scales are [N] there, and where blocks count steps of their
    row: these are int8 [blocks, 1, N] beside levels as `as_nibbles` makes them.
    """

    packed: ir.TensorProtocol
    scales: ir.TensorProtocol
    zero_points: ir.TensorProtocol | None = None
    steps: ir.TensorProtocol | None = None


@dataclass(frozen=True)
class StackedLayout:
    """How the matrices of experts, or their biases, are made of weights in the plain form.

    Attributes:
        matrix: Makes the matrices of all experts, one below the other: [experts * rows, columns].
    """

    shape: tuple[int, ...]
    matrix: Callable[[list[torch.Tensor]], torch.Tensor]
    parts: Callable[[torch.Tensor], list[torch.Tensor]]


class LazyWeights:
    """Tensors of a model in the layout and precision of the graph, without reading any data yet."""

    def __init__(self, reader: WeightReader, precision: Precision) -> None:
        grid = precision.quantization
        self.reader = reader if grid is None or not grid.tables else PartsReader(reader, grid.tables)
        self._shapes = self.reader.shapes()
        self.precision = precision
        #: The grids of the matrices that were asked for, by their names in the graph.
        self.grids: dict[str, BlockQuantization] = {}
        self._latest: tuple[str, QuantizedMatrix] | None = None

    def shape(self, names: Sequence[str]) -> tuple[int, int]:
        """Rows and columns of weights [out, in] joined along `out`."""
        return sum(self._shapes[name][0] for name in names), self._shapes[names[0]][1]

    def scaled(self, exponents: Mapping[str, int]) -> LazyWeights:
        """These weights, with the tensors named here times 2^exponent."""
        if not exponents:
            return self
        weights = LazyWeights(ScaledReader(self.reader, exponents), self.precision)
        weights.grids = self.grids
        return weights

    def table(self, name: str) -> TableRows | None:
        """The rows of a table that have bits of their own, each part of which is a weight; None: they have not."""
        grid = self.precision.quantization
        return None if grid is None else next((table for table in grid.tables if table.name == name), None)

    def stored(self, name: str) -> ir.TensorProtocol:
        """A tensor in its stored layout, in the dtype of the precision."""
        return self._lazy([name], name, self._shapes[name], _rows)

    def exact(self, name: str) -> ir.TensorProtocol:
        """A tensor in its stored layout, in float32 whatever the precision."""
        return self._lazy([name], name, self._shapes[name], _rows, ir.DataType.FLOAT)

    def joined(self, names: Sequence[str], name: str) -> ir.TensorProtocol:
        """Vectors (biases) concatenated under a new name."""
        return self._lazy(names, name, (sum(self._shapes[part][0] for part in names),), _rows)

    def transposed(self, names: Sequence[str], name: str) -> ir.TensorProtocol:
        """Weights [out, in] joined along `out` and transposed to [in, out], under a new name."""
        return self._lazy(names, name, self.shape(names)[::-1], _columns)

    def stacked(self, names: Sequence[str], name: str, layout: StackedLayout) -> ir.TensorProtocol:
        """Matrices of experts, [experts, out, in], made of the named weights."""

        def experts(parts: list[torch.Tensor]) -> Pieces:
            return iter(layout.matrix(parts).view(layout.shape).split(1))

        return self._lazy(names, name, layout.shape, experts)

    def quantized(self, names: Sequence[str], name: str, layout: StackedLayout | None = None) -> QuantizedTensors:
        """Weights [out, in] joined along `out` and quantised in blocks along `in`.

        With a layout, they are the matrices of experts: [experts, out, ...], and what belongs to a row is one axis.
        """
        self.grids[name] = rounding = self.grid(names)
        rows, columns = self.shape(names) if layout is None else layout.shape[1:]
        uint8, int8, dtype = ir.DataType.UINT8, ir.DataType.INT8, self.precision.scale_dtype

        def part(label: str, kind: ir.DataType, shape: tuple[int, ...], of: Part) -> ir.TensorProtocol:
            if layout is not None:
                shape = (layout.shape[0], shape[0], math.prod(shape[1:]))

            def read() -> Pieces:
                tensor = of(self._quantize(names, name, layout)).view(shape)
                yield self._narrowed(tensor, names, dtype) if kind == dtype else tensor

            return lazy_tensor(f"{name}.{label}", shape, read, kind)

        def nibbles() -> Pieces:
            yield as_nibbles(self._quantize(names, name, None).packed)

        if rounding.block_size == WHOLE_ROW:
            levels = part("packed", int8, (columns, rows), lambda matrix: as_columns(matrix.packed))
            return QuantizedTensors(levels, part("scales", dtype, (rows,), lambda matrix: matrix.scales))
        blocks = -(-columns // rounding.block_size)
        if rounding.rows:
            return QuantizedTensors(
                LazyTensor(nibbles, ir.DataType.INT4, (blocks, rounding.block_size, rows), f"{name}.packed"),
                part("scales", dtype, (rows,), lambda matrix: matrix.steps[1]),
                steps=part("steps", int8, (blocks, 1, rows), lambda matrix: matrix.steps[0].T.contiguous()),
            )
        levels = part(
            "packed", uint8, (rows, blocks, rounding.block_size * rounding.bits // 8), lambda matrix: matrix.packed
        )
        scales = part("scales", dtype, (rows, blocks), lambda matrix: matrix.scales)
        if rounding.symmetric:
            return QuantizedTensors(levels, scales)
        points = (rows, -(-blocks * rounding.bits // 8))
        return QuantizedTensors(levels, scales, part("zero_points", uint8, points, _zero_points))

    def grid(self, names: Sequence[str]) -> BlockQuantization:
        """The grid of weights that the graph joins, which have the same."""
        if self.precision.quantization is None:
            raise ValueError("this precision does not quantise weights")
        first, *others = {self.precision.quantization.of(name) for name in names}
        if others:
            raise ValueError(f"{', '.join(names)} are one matrix in a graph, and have different grids")
        return first

    def _quantize(self, names: Sequence[str], name: str, layout: StackedLayout | None) -> QuantizedMatrix:
        """Keeps the latest result, because its parts are written one after the other."""
        if self._latest is None or self._latest[0] != name:
            self._latest = None  # the memory of the one before is free before the next is read
            parts = list(self.reader.read(names).values())
            if layout is not None:
                parts = [layout.matrix(parts)]
            matrix = parts[0] if len(parts) == 1 else torch.cat(parts)  # a single part stays mapped from its file
            if not _is_finite(matrix):
                raise self._refusal(names)
            self._latest = name, quantize(matrix, self.grid(names))
        return self._latest[1]

    def _lazy(
        self,
        names: Sequence[str],
        name: str,
        shape: tuple[int, ...],
        lay_out: Callable[[list[torch.Tensor]], Pieces],
        dtype: ir.DataType | None = None,
    ) -> ir.TensorProtocol:
        def read() -> Pieces:
            for piece in lay_out(list(self.reader.read(names).values())):
                yield self._narrowed(piece, names, dtype or self.precision.onnx_dtype)

        return lazy_tensor(name, shape, read, dtype or self.precision.onnx_dtype)

    def _narrowed(self, tensor: torch.Tensor, names: Sequence[str], dtype: ir.DataType) -> torch.Tensor:
        """Converts what was made of the named weights to a dtype."""
        narrow = tensor.to(_TORCH[dtype])
        if not _is_finite(narrow):
            raise self._refusal(names)
        return narrow

    def _refusal(self, names: Sequence[str]) -> InputError:
        """Names the weight that is not finite, or else the largest."""
        largest = {}
        for name, part in self.reader.read(names).items():
            if not _is_finite(part):
                return not_finite(name)
            largest[name] = max(piece.float().abs().max().item() for piece in part.split(_at_once(part)))
        name = max(largest, key=largest.__getitem__)
        return InputError(
            f"weights: '{name}' reaches {largest[name]:.3g}, too large for {self.precision.name}; use fp32"
        )


def open_weights(model_folder: Path, spec: ModelSpec, precision: Precision) -> LazyWeights:
    """Opens the weights of a model folder, whose names and shapes must match `spec`."""
    reader = SafetensorsReader(model_folder)
    check_weights(reader, StoredForm(spec).shapes, str(model_folder))
    return LazyWeights(PlainReader(reader, spec), precision)


class LazyTensor(ir.LazyTensor):
    """A tensor that is read and converted in pieces of consecutive rows, which are not kept."""

    def __init__(self, read: Callable[[], Pieces], dtype: ir.DataType, shape: tuple[int, ...], name: str) -> None:
        super().__init__(lambda: TorchTensor(_whole(read()), name=name), dtype, ir.Shape(shape), name=name)
        self._read = read

    def pieces(self) -> Pieces:
        """The tensor's rows, some at a time, in order."""
        return self._read()

    def tofile(self, file: BinaryIO) -> None:
        """Writes the tensor's bytes to a file, one piece after the other."""
        for piece in self.pieces():
            TorchTensor(piece).tofile(file)


def lazy_tensor(
    name: str, shape: tuple[int, ...], read: Callable[[], Pieces], dtype: ir.DataType
) -> ir.TensorProtocol:
    """A tensor whose values come from `read` when it is written.

    A tensor small enough to be stored in the graph itself is read at once.
    """
    if math.prod(shape) * dtype.itemsize <= INLINE_BYTES:
        return TorchTensor(_whole(read()), name=name)
    return LazyTensor(read, dtype, shape, name)


def _zero_points(matrix: QuantizedMatrix) -> torch.Tensor:
    return cast(torch.Tensor, matrix.zero_points)


def _rows(parts: list[torch.Tensor]) -> Pieces:
    for part in parts:
        yield from part.split(_at_once(part))


def _columns(parts: list[torch.Tensor]) -> Pieces:
    """The rows of the transpose of all parts joined, some at a time."""
    # Transposed before widening, so that a 16-bit weight is never held twice in float32. A strip of columns is copied
    # first, because transposing it in place takes several times as long.
    at_once = max(1, _ELEMENTS // sum(len(part) for part in parts))
    for pieces in zip(*(part.split(at_once, dim=1) for part in parts), strict=True):
        strip = pieces[0].contiguous() if len(pieces) == 1 else torch.cat(pieces)
        yield strip.T.contiguous()


def _at_once(tensor: torch.Tensor) -> int:
    """The number of rows that are converted at a time."""
    return max(1, _ELEMENTS // max(1, math.prod(tensor.shape[1:])))


def _whole(pieces: Pieces) -> torch.Tensor:
    first, *others = pieces
    return torch.cat([first, *others]) if others else first


def _is_finite(tensor: torch.Tensor) -> bool:
    # NaN and infinity show in the minimum and maximum. A boolean mask would cost memory, and numpy reduces on one
    # thread, whereas torch's threads wait for each other on a busy machine.
    pieces = tensor.split(_at_once(tensor)) if tensor.ndim else (tensor,)
    arrays = ((piece.float() if piece.dtype == torch.bfloat16 else piece).numpy() for piece in pieces)
    return all(math.isfinite(array.min()) and math.isfinite(array.max()) for array in arrays)
