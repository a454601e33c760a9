"""Compares the weights that a graph stores with those of the model it was written from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.tensor_adapters import TorchTensor

from converters.onnx.form import OnnxForm
from converters.onnx.graph.decoder import decoder_graph
from converters.onnx.graph.dialects import LEFT_PADDING_GUARD, POISON
from converters.onnx.onnx_writer import MODEL_FILE
from converters.onnx.precision import BlockQuantization, Precision
from converters.onnx.weights.quantize import QuantizedMatrix, dequantize
from converters.onnx.weights.scaling import Scaling
from converters.onnx.weights.weights import LazyTensor, open_weights
from seap_export.errors import ArtifactError
from seap_export.sources.config import read_spec

__all__ = ["interface_differences", "open_graph", "refuse_bad_data", "weight_differences"]

#: Largest difference of a stored number over the largest of its tensor: one or two units in the last place, where
#: another machine may round differently.
_ROUNDING = {"fp32": 1e-6, "fp16": 2e-3, "bf16": 2e-2}
#: A row of int8 or int4 weights may be this many times as far from the model's as if it were quantised now: if two
#: scales of a block are equally good, another machine may choose the other.
_ERROR_RATIO = 1.01
#: Approximations of the same function.
_GELUS = ("FastGelu", "Gelu")
_PARTS = (".packed", ".scales", ".zero_points")
#: Rows of a quantised matrix that are compared in float32 at a time.
_ROWS = 1024


def refuse_bad_data(folder: Path) -> None:
    """Refuses a graph whose data file cannot be the one it was written with, judged by the offsets and the size.

    Raises:
        ArtifactError: The graph cannot be read, refers to another file or to a place beyond its end, or leaves bytes
            of the file unused.
    """
    size, end = 0, 0
    for value in open_graph(folder / MODEL_FILE).graph.initializers.values():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        size = _data_file(tensor).stat().st_size
        end = max(end, (tensor.offset or 0) + (tensor.length or 0))
    if end != size:
        raise ArtifactError(f"{folder}: the data file has {size} bytes, but model.onnx needs {end}; export again")


def _data_file(tensor: ir.ExternalTensor) -> Path:
    file = Path(tensor.base_dir) / tensor.location
    if Path(tensor.location).name != str(tensor.location) or not file.is_file():
        model = Path(tensor.base_dir) / MODEL_FILE
        raise ArtifactError(f"{model}: its data file '{tensor.location!s:.80}' is not next to it; export again")
    return file


def weight_differences(model_folder: Path, onnx_folder: Path, form: OnnxForm, file: str = MODEL_FILE) -> Iterator[str]:
    """The tensors and nodes that differ from the model's, and NaN and infinities, one line each.

    Tensors are matched by name and compared one at a time, in blocks of rows; the graph's are read and not mapped,
    because the pages of a mapped file count as memory of the process. Differences within rounding pass: float tensors
    must be the model's, int8 and int4 ones as close to it as quantising gets.

    Args:
        model_folder: config.json and safetensors files.
        onnx_folder: The graph and its data.
        form: The graph's form.
        file: The graph's file name.

    Raises:
        ArtifactError: The graph cannot be read.
        InputError: The model folder is damaged.
    """
    spec = read_spec(model_folder)
    weights = open_weights(model_folder, spec, form.precision)
    model = open_graph(onnx_folder / file)
    # Any scaling is right that all of the graph follows.
    scaling = Scaling.noted(model.metadata_props, onnx_folder / file)
    graph, other = decoder_graph(spec, weights, form, scaling).build("").graph, model.graph
    yield from _other_attributes(graph, other)
    expected, stored = graph.initializers, other.initializers
    for name, value in expected.items():
        wanted = value.const_value
        if name not in stored or wanted is None:
            yield f"'{name}' is not stored"
            continue
        found = stored[name].const_value
        if found is None or list(found.shape.numpy()) != list(wanted.shape.numpy()) or found.dtype != wanted.dtype:
            yield f"'{name}' is stored with another shape or type"
        elif name.endswith(_PARTS):
            if name.endswith(_PARTS[0]):
                yield from _worse_rows(name.removesuffix(_PARTS[0]), expected, stored, form.precision)
        else:
            yield from _other_numbers(name, wanted, found, form.precision)


def _other_attributes(expected: ir.Graph, stored: ir.Graph) -> Iterator[str]:
    """Attributes that differ between nodes of the same name and operator, a missing guard or poison against left
    padding, and another activation where results may tell too little.
    """
    nodes = {node.name: node for node in stored}
    for node in expected:
        own = nodes.get(node.name)
        if own is None:
            if node.name in (LEFT_PADDING_GUARD, POISON):
                yield f"node '{node.name}' is missing: rows padded on the left would be computed wrongly"
            continue
        if own.op_type != node.op_type:
            if node.op_type in _GELUS:
                yield f"node '{node.name}' is {own.op_type} and not {node.op_type}"
            continue
        for name in sorted(node.attributes.keys() | own.attributes.keys()):
            wanted, found = (attributes.get(name) for attributes in (node.attributes, own.attributes))
            if wanted is None or found is None or not _is_same(wanted.value, found.value):
                yield f"node '{node.name}' has a different {name} than the model"


def _is_same(expected: Any, stored: Any) -> bool:
    """Floats are compared in 32 bits, as files store them."""
    return bool(np.float32(expected) == np.float32(stored) if isinstance(expected, float) else expected == stored)


def open_graph(path: Path) -> ir.Model:
    """Reads a graph; its data file is not read.

    Raises:
        ArtifactError: It cannot be read.
    """
    try:
        return ir.load(path)
    except Exception as error:  # errors of several packages: file system, protobuf
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path}: cannot be read as ONNX ({reason:.200}); export again") from error


def _pieces(tensor: ir.TensorProtocol) -> Iterator[NDArray[Any]]:
    """A tensor's numbers, some at a time."""
    if isinstance(tensor, LazyTensor):
        return (_widened(TorchTensor(piece).numpy()).reshape(-1) for piece in tensor.pieces())
    return iter([_widened(np.asarray(tensor.numpy())).reshape(-1)])


class _Stored:
    """The numbers of a tensor of the file, from the first to the last."""

    def __init__(self, tensor: ir.TensorProtocol) -> None:
        self._tensor, self._next = tensor, 0

    def take(self, count: int) -> NDArray[Any]:
        """The next numbers; raises `ArtifactError` where the file ends before them."""
        start, self._next = self._next, self._next + count
        tensor = self._tensor
        if not isinstance(tensor, ir.ExternalTensor):
            return _widened(np.asarray(tensor.numpy())).reshape(-1)[start : self._next]
        dtype = tensor.dtype.numpy()
        file = _data_file(tensor)
        found = np.fromfile(file, dtype, count, offset=(tensor.offset or 0) + start * dtype.itemsize)
        if len(found) != count:
            raise ArtifactError(f"{file}: it ends before the tensor '{tensor.name:.80}'; export again")
        return _widened(found)


def _widened(array: NDArray[Any]) -> NDArray[Any]:
    """16-bit floats as float32."""
    return array.astype(np.float32) if array.dtype in (np.float16, ml_dtypes.bfloat16) else array


def _other_numbers(
    name: str, wanted: ir.TensorProtocol, found: ir.TensorProtocol, precision: Precision
) -> Iterator[str]:
    largest = difference = 0.0
    stored = _Stored(found)
    for piece in _pieces(wanted):
        own = stored.take(piece.size)
        is_float = np.issubdtype(piece.dtype, np.floating)
        if is_float and not np.isfinite(own).all():
            yield f"'{name}' holds NaN or infinite values"
            return
        if is_float:
            largest = max(largest, float(np.abs(piece).max(initial=0.0)))
        if np.array_equal(piece, own):
            continue
        if not is_float:
            yield f"'{name}' differs from the model's"
            return
        difference = max(difference, float(np.abs(piece - own).max(initial=0.0)))
    relative = difference / (largest or 1.0)
    if relative > _ROUNDING[precision.dtype]:
        yield f"'{name}' differs from the model's by {relative:.1e} of its largest number"


def _worse_rows(
    name: str, expected: Mapping[str, ir.Value], stored: Mapping[str, ir.Value], precision: Precision
) -> Iterator[str]:
    """Rows of a quantised matrix that are further from the model's weights than quantising them now gets."""
    how = precision.quantization
    if how is None:
        return
    own, given = (_matrix(name, tensors) for tensors in (expected, stored))
    if not torch.isfinite(given.scales).all():
        yield f"'{name}' holds NaN or infinite scales"
        return
    if _is_equal(own, given):
        return
    rows = [row + start for start in range(0, len(own.packed), _ROWS) for row in _worse(own, given, how, start)]
    if rows:
        yield f"'{name}' differs from the model's in {len(rows)} rows, for example row {rows[0]}"


def _worse(own: QuantizedMatrix, given: QuantizedMatrix, how: BlockQuantization, start: int) -> list[int]:
    """Of the `_ROWS` rows from `start` on those that are further away, counted from there."""
    own, given = (_some_rows(matrix, slice(start, start + _ROWS)) for matrix in (own, given))
    columns = own.scales.shape[1] * how.block_size
    wanted, found = (dequantize(matrix, how, columns) for matrix in (own, given))
    # If both are equally good, they differ by no more than the quantisation error.
    apart = (wanted - found).square().sum(1)
    step = own.scales.abs().square().sum(1) * how.block_size / 12
    further: list[int] = torch.nonzero(apart > (_ERROR_RATIO - 1) * step).flatten().tolist()
    return further


def _some_rows(matrix: QuantizedMatrix, rows: slice) -> QuantizedMatrix:
    points = matrix.zero_points
    return QuantizedMatrix(matrix.packed[rows], matrix.scales[rows], None if points is None else points[rows])


def _is_equal(first: QuantizedMatrix, second: QuantizedMatrix) -> bool:
    pairs = (
        (first.packed, second.packed),
        (first.scales, second.scales),
        (first.zero_points, second.zero_points),
    )
    return all(one is two if one is None or two is None else torch.equal(one, two) for one, two in pairs)


def _matrix(name: str, tensors: Mapping[str, ir.Value]) -> QuantizedMatrix:
    packed, scales, points = (_part(name + part, tensors) for part in _PARTS)
    if packed is None or scales is None:
        raise ArtifactError(f"model.onnx: '{name}' is stored only in part; export again")
    return QuantizedMatrix(packed, scales.float(), points)


def _part(name: str, tensors: Mapping[str, ir.Value]) -> torch.Tensor | None:
    value = tensors.get(name)
    if value is None or value.const_value is None:
        return None
    tensor = value.const_value
    if isinstance(tensor, LazyTensor):
        return torch.cat(list(tensor.pieces()))
    array = _Stored(tensor).take(tensor.size).reshape(tensor.shape.numpy())
    return torch.from_numpy(np.require(array, requirements="W"))  # an inline tensor is read-only


def interface_differences(model_folder: Path, onnx_folder: Path, form: OnnxForm) -> Iterator[str]:
    """The inputs and outputs that differ from the model's, one line each; see `weight_differences`."""
    spec = read_spec(model_folder)
    expected = decoder_graph(spec, open_weights(model_folder, spec, form.precision), form).build("").graph
    stored = open_graph(onnx_folder / MODEL_FILE).graph
    for kind in ("inputs", "outputs"):
        wanted, found = ({str(v.name): _described(v) for v in getattr(graph, kind)} for graph in (expected, stored))
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                yield (
                    f"{kind[:-1]} '{name:.60}' is {found.get(name, 'missing')} in model.onnx, "
                    f"{wanted.get(name, 'unknown')} according to config.json"
                )


def _described(value: ir.Value) -> str:
    return f"{value.dtype} {value.shape}"
