"""Reads a model's weights back from the graph that was written from them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch

from converters.format import Place
from converters.onnx.form import read_form
from converters.onnx.graph.linear import JOINED, joined_name
from converters.onnx.graph.sublayers.experts import expert_biases, expert_matrices
from converters.onnx.onnx_writer import MODEL_FILE
from converters.onnx.weights.quantize import QuantizedMatrix, dequantize, of_columns, of_nibbles, scales_of
from converters.onnx.weights.scaling import Scaling
from converters.onnx.weights.weights import StackedLayout
from converters.read_back import PlainWeights
from seap_export.errors import ArtifactError
from seap_export.model.families import Experts, ModelSpec, names
from seap_export.pruning.rounding.grid import WHOLE_ROW


class GraphWeights(PlainWeights):
    """The weights of a graph, under the names of the model folder's safetensors; see `StoredWeights`.

    Of the data of `model`, the .onnx file, only what is asked for is read.
    """

    def __init__(self, model: Path, spec: ModelSpec) -> None:
        super().__init__(spec)
        graph = _open_graph(model)
        self._model, self._tensors = model, graph.graph.initializers
        self._how = read_form(model).precision.quantization
        self._exponents = Scaling.noted(graph.metadata_props, model).tensors(spec)
        self._shapes = spec.tensors()
        self._rows = dict(_joined(spec))
        self._stacked = dict(_stacked(spec))

    def plain(self, name: str) -> torch.Tensor:
        """A tensor of the plain form in float32: scales and powers of two are undone."""
        tensor = self._laid_out(name)
        if tuple(tensor.shape) != self._shapes[name]:
            raise ArtifactError(f"{self._model}: '{name}' has another shape than the model's; export again")
        exponent = self._exponents.get(name, 0)
        return tensor * 2.0**-exponent if exponent else tensor

    def _laid_out(self, name: str) -> torch.Tensor:
        """A tensor of the plain form: rows of one that is joined, transposed or quantised in the graph."""
        if name in self._stacked:
            stored, layout, part = self._stacked[name]
            return layout.parts(self._matrix(name, stored, layout.shape))[part]
        if self._how is not None and (parts := self._how.parts(name)):
            sorted_rows = torch.cat([self._rounded(part.name, part.name, self._shapes[name][1]) for part in parts])
            places = self._number(f"{name}.places").long()
            if not torch.equal(places.sort().values, torch.arange(len(sorted_rows))):
                raise ArtifactError(f"{self._model}: '{name}' has rows without a place; export again")
            return sorted_rows[places]
        stored, rows = self._rows.get(name, (name, slice(None)))
        if f"{stored}.packed" in self._tensors and self._how is not None:
            return self._rounded(name, stored, self._shapes[name][1], rows)
        if f"{stored}.transposed" in self._tensors:
            return self._number(f"{stored}.transposed")[:, rows].T.float()
        return self._number(stored)[rows].float()

    def _rounded(self, name: str, stored: str, columns: int, rows: slice = slice(None)) -> torch.Tensor:
        """Rows of a matrix that is stored in blocks."""
        assert self._how is not None
        grid = self._how.of(name)
        if grid.block_size == WHOLE_ROW:
            levels, scales = (self._number(f"{stored}.{part}")[..., rows] for part in ("packed", "scales"))
            matrix = QuantizedMatrix(of_columns(levels), scales.float().unsqueeze(1), None)
            return dequantize(matrix, grid, columns)
        packed, scales = (self._number(f"{stored}.{part}") for part in ("packed", "scales"))
        if grid.rows:
            steps = self._number(f"{stored}.steps")
            packed = of_nibbles(packed, (steps.shape[0], grid.block_size, steps.shape[2]))
            matrix = QuantizedMatrix(packed[rows], scales_of(steps.squeeze(1).T, scales)[rows], None)
            return dequantize(matrix, grid, columns)
        points = f"{stored}.zero_points"
        matrix = QuantizedMatrix(
            packed[rows], scales[rows].float(), self._number(points)[rows] if points in self._tensors else None
        )
        return dequantize(matrix, grid, columns)

    def _matrix(self, name: str, stored: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The matrices of experts that weights of this name are part of, one below the other, or their biases."""
        if f"{stored}.packed" not in self._tensors or self._how is None:
            return self._number(stored).flatten(0, 1).float()
        packed, scales = (self._number(f"{stored}.{part}").flatten(0, 1) for part in ("packed", "scales"))
        points = f"{stored}.zero_points"
        matrix = QuantizedMatrix(
            packed.unflatten(1, (scales.shape[1], -1)),
            scales.float(),
            self._number(points).flatten(0, 1) if points in self._tensors else None,
        )
        return dequantize(matrix, self._how.of(name), shape[2])

    def _number(self, name: str) -> torch.Tensor:
        value = self._tensors.get(name)
        if value is None or value.const_value is None:
            raise ArtifactError(f"{self._model}: it does not store '{name:.80}'; export again")
        return self._numbers(value.const_value)

    def _numbers(self, tensor: ir.TensorProtocol) -> torch.Tensor:
        """All numbers of a stored tensor, 16-bit floats as float32; of INT4, a vector of bytes of two.

        The file is read and not mapped, because the pages of a mapped file count as memory of the process, and not by
        onnx_ir, which refuses one with several hard links, as backups make them.
        """
        is_packed = tensor.dtype == ir.DataType.INT4
        if isinstance(tensor, ir.ExternalTensor):
            file, start, dtype = _data_file(tensor), tensor.offset or 0, tensor.dtype.numpy()
            array = np.fromfile(file, np.uint8, tensor.nbytes, offset=start).view(np.uint8 if is_packed else dtype)
            if array.nbytes != tensor.nbytes:
                raise ArtifactError(f"{file}: it ends before the tensor '{tensor.name:.80}'; export again")
            self.places.append(Place(file, start, start + tensor.nbytes))
        else:
            array = np.frombuffer(tensor.tobytes(), np.uint8) if is_packed else np.asarray(tensor.numpy())
        if array.dtype in (np.float16, ml_dtypes.bfloat16):
            array = array.astype(np.float32)
        array = array.reshape(-1 if is_packed else tensor.shape.numpy())
        return torch.from_numpy(np.require(array, requirements="W"))  # an inline tensor is read-only


def _open_graph(path: Path) -> ir.Model:
    """Reads a graph; its data file is not read."""
    try:
        return ir.load(path)
    except Exception as error:  # errors of several packages: file system, protobuf
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path}: cannot be read as ONNX ({reason:.200}); export again") from error


def _data_file(tensor: ir.ExternalTensor) -> Path:
    file = Path(tensor.base_dir) / tensor.location
    if Path(tensor.location).name != str(tensor.location) or not file.is_file():
        model = Path(tensor.base_dir) / MODEL_FILE
        raise ArtifactError(f"{model}: its data file '{tensor.location!s:.80}' is not next to it; export again")
    return file


def _joined(spec: ModelSpec) -> Iterable[tuple[str, tuple[str, slice]]]:
    """Where the graph stores what it joins: for each weight and bias, the joined tensor and the rows in it."""
    for layer in range(len(spec.layers)):
        for sublayer in spec.layers[layer].sublayers:
            for stored_as, which in JOINED.get(type(sublayer), {}).items():
                parts, start = sublayer.readers[which], 0
                for projection in parts:
                    rows = slice(start, start + sublayer.widths()[projection])
                    for named in (names.weight, names.bias):
                        yield named(projection, layer), (joined_name(named(parts[0], layer), stored_as), rows)
                    start = rows.stop


def _stacked(spec: ModelSpec) -> Iterable[tuple[str, tuple[str, StackedLayout, int]]]:
    """Where the graph stores experts: for each weight, the stacked tensor, its layout, and the index of its part."""
    for layer in range(len(spec.layers)):
        for experts in spec.layers[layer].sublayers:
            if isinstance(experts, Experts):
                biases = expert_biases(experts, layer)
                every = (*expert_matrices(experts, layer, spec.hidden_size), *(() if biases is None else (biases,)))
                for weights, stored, layout in every:
                    for part, name in enumerate(weights):
                        yield name, (stored, layout, part)
