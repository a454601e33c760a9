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

from converters.comparison import other_numbers, worse_rows
from converters.onnx.form import OnnxForm
from converters.onnx.graph.decoder import decoder_graph
from converters.onnx.graph.dialects import DialectType
from converters.onnx.onnx_writer import MODEL_FILE
from converters.onnx.precision import BlockQuantization
from converters.onnx.weights.quantize import QuantizedMatrix, dequantize, of_columns, of_nibbles, scales_of
from converters.onnx.weights.scaling import Scaling
from converters.onnx.weights.weights import LazyTensor, open_weights
from seap_export.errors import ArtifactError
from seap_export.model.sources.config import read_spec
from seap_export.model.sources.weights import Difference

_DTYPES = {ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16"}
_PARTS = (".packed", ".scales", ".zero_points", ".steps")


def _data_file(tensor: ir.ExternalTensor) -> Path:
    file = Path(tensor.base_dir) / tensor.location
    if Path(tensor.location).name != str(tensor.location) or not file.is_file():
        model = Path(tensor.base_dir) / MODEL_FILE
        raise ArtifactError(f"{model}: its data file '{tensor.location!s:.80}' is not next to it; export again")
    return file


def weight_differences(
    model_folder: Path,
    onnx_folder: Path,
    form: OnnxForm,
    file: str = MODEL_FILE,
    dialect: DialectType | None = None,
) -> Iterator[Difference]:
    """The tensors that differ from the model's, and NaN and infinities, one line each.

    Tensors are matched by name and compared one at a time, in blocks of rows. Differences within rounding pass: float
    tensors must be the model's, int8 and int4 ones as close to it as quantising gets. For `dialect`, see
    `decoder_graph`.
    """
    spec = read_spec(model_folder)
    weights = open_weights(model_folder, spec, form.precision)
    model = open_graph(onnx_folder / file)
    # Any scaling is right that all of the graph follows.
    scaling = Scaling.noted(model.metadata_props, onnx_folder / file)
    expected = decoder_graph(spec, weights, form, scaling, dialect).build("").graph.initializers
    stored = model.graph.initializers
    for name, value in expected.items():
        wanted = value.const_value
        if name not in stored or wanted is None:
            yield Difference(name, f"'{name}' is not stored")
            continue
        tensor = stored[name].const_value
        if tensor is None or list(tensor.shape.numpy()) != list(wanted.shape.numpy()) or tensor.dtype != wanted.dtype:
            yield Difference(name, f"'{name}' is stored with another shape or type")
        elif name.endswith(_PARTS):
            matrix = name.removesuffix(_PARTS[0])
            if matrix != name and (line := _other_levels(matrix, expected, stored, weights.grids[matrix])):
                yield Difference(matrix, line)
        else:
            numbers = _Stored(tensor)
            pieces = ((piece, numbers.take(piece.size)) for piece in _pieces(wanted))
            if line := other_numbers(name, pieces, _DTYPES.get(wanted.dtype, "fp32")):
                yield Difference(name, line)


def open_graph(path: Path) -> ir.Model:
    """Reads a graph; its data file is not read."""
    try:
        return ir.load(path)
    except Exception as error:  # errors of several packages: file system, protobuf
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path}: cannot be read as ONNX ({reason:.200}); export again") from error


def stored_tensor(tensor: ir.TensorProtocol) -> torch.Tensor:
    """All numbers of a stored tensor, 16-bit floats as float32; of INT4, a vector of bytes of two."""
    if tensor.dtype == ir.DataType.INT4:
        array = _Stored(tensor).take(tensor.nbytes)
    else:
        array = _Stored(tensor).take(tensor.size).reshape(tensor.shape.numpy())
    return torch.from_numpy(np.require(array, requirements="W"))  # an inline tensor is read-only


def _pieces(tensor: ir.TensorProtocol) -> Iterator[NDArray[Any]]:
    """A tensor's numbers as vectors, some at a time; 16-bit floats as float32."""
    if isinstance(tensor, LazyTensor):
        return (_widened(TorchTensor(piece).numpy()).reshape(-1) for piece in tensor.pieces())
    return iter([_widened(np.asarray(tensor.numpy())).reshape(-1)])


class _Stored:
    """Reads the numbers of a stored tensor in order, some at a time.

    The file is read and not mapped, because the pages of a mapped file count as memory of the process, and not by
    onnx_ir, which refuses one with several hard links, as backups make them.
    """

    def __init__(self, tensor: ir.TensorProtocol) -> None:
        self._tensor, self._next = tensor, 0

    def take(self, count: int) -> NDArray[Any]:
        """The next `count` numbers, or bytes of two; raises `ArtifactError` where the file ends before them."""
        start, self._next = self._next, self._next + count
        tensor, is_packed = self._tensor, self._tensor.dtype == ir.DataType.INT4
        if not isinstance(tensor, ir.ExternalTensor):
            array = np.frombuffer(tensor.tobytes(), np.uint8) if is_packed else np.asarray(tensor.numpy())
            return _widened(array).reshape(-1)[start : self._next]
        dtype = np.dtype(np.uint8) if is_packed else tensor.dtype.numpy()
        file = _data_file(tensor)
        numbers = np.fromfile(file, dtype, count, offset=(tensor.offset or 0) + start * dtype.itemsize)
        if len(numbers) != count:
            raise ArtifactError(f"{file}: it ends before the tensor '{tensor.name:.80}'; export again")
        return _widened(numbers)


def _widened(array: NDArray[Any]) -> NDArray[Any]:
    """Converts 16-bit floats to float32, and returns any other array as it is."""
    return array.astype(np.float32) if array.dtype in (np.float16, ml_dtypes.bfloat16) else array


def _other_levels(
    name: str, expected: Mapping[str, ir.Value], stored: Mapping[str, ir.Value], grid: BlockQuantization
) -> str | None:
    """Rows of a quantised matrix that are further from the model's weights than quantising them now gets."""
    best, given = (_matrix(name, tensors) for tensors in (expected, stored))
    if not torch.isfinite(given.scales).all():
        return f"'{name}' holds NaN or infinite scales"
    if _is_equal(best, given):
        return None

    def read(rows: slice) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        columns = best.scales.shape[1] * grid.width(best.packed.shape[-1])
        matrices = [dequantize(_some_rows(matrix, rows), grid, columns).numpy() for matrix in (best, given)]
        return matrices[0], matrices[1], best.scales[rows].numpy()

    return worse_rows(name, len(best.packed), read)


def _some_rows(matrix: QuantizedMatrix, rows: slice) -> QuantizedMatrix:
    points = matrix.zero_points
    return QuantizedMatrix(matrix.packed[rows], matrix.scales[rows], None if points is None else points[rows])


def _is_equal(first: QuantizedMatrix, second: QuantizedMatrix) -> bool:
    pairs = zip(vars(first).values(), vars(second).values(), strict=True)
    return all(one is two if one is None or two is None else torch.equal(one, two) for one, two in pairs)


def _matrix(name: str, tensors: Mapping[str, ir.Value]) -> QuantizedMatrix:
    packed, scales, points, steps = (_part(name + part, tensors) for part in _PARTS)
    if packed is None or scales is None:
        raise ArtifactError(f"model.onnx: '{name}' is stored only in part; export again")
    if packed.dtype == torch.int8:
        return QuantizedMatrix(of_columns(packed), scales.float().unsqueeze(1), None)
    if steps is not None:
        levels = of_nibbles(packed, (steps.shape[0], -1, steps.shape[2]))
        return QuantizedMatrix(levels, scales_of(steps.squeeze(1).T, scales), None)
    return QuantizedMatrix(packed, scales.float(), points)


def _part(name: str, tensors: Mapping[str, ir.Value]) -> torch.Tensor | None:
    value = tensors.get(name)
    if value is None or value.const_value is None:
        return None
    tensor = value.const_value
    if isinstance(tensor, LazyTensor):
        return torch.cat(list(tensor.pieces()))
    return stored_tensor(tensor)
