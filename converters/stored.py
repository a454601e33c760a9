"""Compares the weights that a graph stores with those of the model it was written from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from converters.decoder import decoder_graph
from converters.dialects import LEFT_PADDING_GUARD, POISON
from converters.form import OnnxForm
from converters.onnx_writer import MODEL_FILE
from converters.precision import Precision
from converters.quantize import QuantizedMatrix, dequantize
from converters.scaling import Scaling
from converters.weights import open_weights
from seap_export.errors import ArtifactError
from seap_export.families import model_spec
from seap_export.sources.config import read_json

__all__ = ["interface_differences", "refuse_bad_data", "weight_differences"]

#: Largest difference of a stored number over the largest of its tensor: one or two units in the last place, where
#: another machine may round differently.
_ROUNDING = {"fp32": 1e-6, "fp16": 2e-3, "bf16": 2e-2}
#: A row of int8 or int4 weights may be this many times as far from the model's as if it were quantised now: if two
#: scales of a block are equally good, another machine may choose the other.
_ERROR_RATIO = 1.01
#: Approximations of the same function.
_GELUS = ("FastGelu", "Gelu")
_PARTS = (".packed", ".scales", ".zero_points")


def refuse_bad_data(folder: Path) -> None:
    """Refuses a graph whose data file cannot be the one it was written with, judged by the offsets and the size.

    Raises:
        ArtifactError: The graph cannot be read, refers to another file or to a place beyond its end, or leaves bytes
            of the file unused.
    """
    size, end = 0, 0
    for value in _open(folder / MODEL_FILE).graph.initializers.values():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        file = folder / tensor.location
        if Path(tensor.location).name != str(tensor.location) or not file.is_file():
            raise ArtifactError(
                f"{folder / MODEL_FILE}: its data file '{tensor.location!s:.80}' is not next to it; export again"
            )
        size = file.stat().st_size
        end = max(end, (tensor.offset or 0) + (tensor.length or 0))
    if end != size:
        raise ArtifactError(f"{folder}: the data file has {size} bytes, but model.onnx needs {end}; export again")


def weight_differences(model_folder: Path, onnx_folder: Path, form: OnnxForm) -> Iterator[str]:
    """The tensors and nodes that differ from the model's, and NaN and infinities, one line each.

    Tensors are matched by name and compared one at a time. Differences within rounding pass: float tensors must be
    the model's, int8 and int4 ones as close to it as quantising gets.

    Args:
        model_folder: config.json and safetensors files.
        onnx_folder: model.onnx and its data.
        form: The graph's form.

    Raises:
        ArtifactError: The graph cannot be read.
        InputError: The model folder is damaged.
    """
    spec = model_spec(read_json(model_folder / "config.json"))
    weights = open_weights(model_folder, spec, form.precision)
    model = _open(onnx_folder / MODEL_FILE)
    # Any scaling is right that all of the graph follows.
    scaling = Scaling.noted(model.metadata_props, onnx_folder / MODEL_FILE)
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
            yield from _other_numbers(name, _numbers(wanted), _numbers(found), form.precision)


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


def _open(path: Path) -> ir.Model:
    try:
        return ir.load(path)
    except Exception as error:  # errors of several packages: file system, protobuf
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path}: cannot be read as ONNX ({reason:.200}); export again") from error


def _numbers(tensor: ir.TensorProtocol) -> NDArray[Any]:
    """The tensor's numbers; 16-bit floats as float32."""
    array: NDArray[Any] = np.asarray(tensor.numpy())
    return array.astype(np.float32) if tensor.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16) else array


def _other_numbers(name: str, wanted: NDArray[Any], found: NDArray[Any], precision: Precision) -> Iterator[str]:
    if np.issubdtype(found.dtype, np.floating) and not np.isfinite(found).all():
        yield f"'{name}' holds NaN or infinite values"
        return
    if np.array_equal(wanted, found):
        return
    if not np.issubdtype(wanted.dtype, np.floating):
        yield f"'{name}' differs from the model's"
        return
    largest = float(np.abs(wanted).max(initial=0.0)) or 1.0
    difference = float(np.abs(wanted - found).max(initial=0.0)) / largest
    if difference > _ROUNDING[precision.dtype]:
        yield f"'{name}' differs from the model's by {difference:.1e} of its largest number"


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
    columns = own.scales.shape[1] * how.block_size
    wanted, found = (dequantize(matrix, how, columns) for matrix in (own, given))
    # If both are equally good, they differ by no more than the quantisation error.
    apart = (wanted - found).square().sum(1)
    step = own.scales.abs().square().sum(1) * how.block_size / 12
    rows = torch.nonzero(apart > (_ERROR_RATIO - 1) * step).flatten()
    if len(rows):
        yield f"'{name}' differs from the model's in {len(rows)} rows, for example row {int(rows[0])}"


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
    return torch.from_numpy(np.array(_numbers(value.const_value)))


def interface_differences(model_folder: Path, onnx_folder: Path, form: OnnxForm) -> Iterator[str]:
    """The inputs and outputs that differ from the model's, one line each; see `weight_differences`."""
    spec = model_spec(read_json(model_folder / "config.json"))
    expected = decoder_graph(spec, open_weights(model_folder, spec, form.precision), form).build("").graph
    stored = _open(onnx_folder / MODEL_FILE).graph
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
