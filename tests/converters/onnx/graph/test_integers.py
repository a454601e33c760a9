"""Products of integers: what they round, which tokens they keep apart, and the same in floats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from support.product import BlockQuantization, dequantize, quantize

from converters.onnx.graph.blocks import in_float_activations
from converters.onnx.graph.graph import GraphBuilder
from converters.onnx.graph.integers import IntegerProducts
from converters.onnx.weights.quantize import QuantizedMatrix, as_columns, as_nibbles, of_columns, of_nibbles
from converters.onnx.weights.weights import QuantizedTensors
from seap_export.pruning.rounding.grid import WHOLE_ROW

#: Rows of 8 bits, and rows of blocks of 4 bits, the last of which is not whole.
GRIDS, IN, OUT = {"w8a8": BlockQuantization(8, WHOLE_ROW), "w4a8": BlockQuantization(4, 32, rows=True)}, 80, 48


@pytest.fixture(scope="module", params=GRIDS)
def how(request: pytest.FixtureRequest) -> BlockQuantization:
    return GRIDS[request.param]


@pytest.fixture(scope="module")
def matrix(how: BlockQuantization) -> QuantizedMatrix:
    return quantize(torch.randn(OUT, IN, generator=torch.Generator().manual_seed(1)), how)


@pytest.fixture(scope="module")
def model(matrix: QuantizedMatrix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two products of one input, the second with a bias."""
    g, path = GraphBuilder("products"), tmp_path_factory.mktemp("integers") / "model.onnx"
    x, products = g.input("x", ir.DataType.FLOAT, [None, None, IN]), IntegerProducts(g)
    bias = g.constant("bias", np.arange(OUT, dtype=np.float32))
    for name, added in (("plain", None), ("biased", bias)):
        product = products.product(x, tensors(matrix, name), (OUT, IN), name, added)
        g.output(product, name, ir.DataType.FLOAT, [None, None, OUT])
    ir.save(g.build("test"), path)
    return path


def tensors(matrix: QuantizedMatrix, name: str) -> QuantizedTensors:
    """What a graph stores of a matrix."""
    if matrix.scales.shape[1] == 1:
        parts = {"packed": as_columns(matrix.packed), "scales": matrix.scales.squeeze(1)}
    else:
        steps, rows = matrix.steps
        parts = {"scales": rows, "steps": steps.T[:, None].contiguous()}
    parts["scales"] = parts["scales"].half()
    made = {part: ir.Tensor(each.numpy(), name=f"{name}.{part}") for part, each in parts.items()}
    if "packed" not in made:
        shape, levels = (len(matrix.packed[0]), 32, OUT), as_nibbles(matrix.packed).numpy()
        made["packed"] = ir.PackedTensor(levels, ir.DataType.INT4, shape=ir.Shape(shape), name=f"{name}.packed")
    return QuantizedTensors(**made)


def run(model: Path | bytes, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    content = model.read_bytes() if isinstance(model, Path) else model
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    plain, biased = session.run(["plain", "biased"], {"x": x})
    return plain, biased


def tokens() -> NDArray[np.float32]:
    """Tokens of very different sizes, one of them zeros."""
    x = np.random.default_rng(0).standard_normal((2, 5, IN)).astype(np.float32)
    x *= np.array([1, 100, 0, 1e-3, 7], np.float32)[:, None]
    return x


def test_each_token_has_a_scale(model: Path, matrix: QuantizedMatrix, how: BlockQuantization) -> None:
    x, weight = tokens(), dequantize(matrix, how, IN).numpy()
    step = np.maximum(np.abs(x).max(-1, keepdims=True), 1e-30) / 127
    wanted = np.rint(x / step) * step @ weight.T
    plain, biased = run(model, x)
    assert np.all(np.abs(plain - wanted) <= 2e-6 * 127 * step * np.abs(weight).sum(1))
    assert np.all(plain[:, 2] == 0)
    assert np.allclose(biased - np.arange(OUT), plain, atol=1e-4)


def test_a_token_is_computed_as_it_is_alone(model: Path) -> None:
    x = tokens()
    assert np.array_equal(run(model, x)[0][:, 3:4], run(model, x[:, 3:4])[0])


def test_in_floats_nothing_but_the_weights_is_rounded(
    model: Path, matrix: QuantizedMatrix, how: BlockQuantization
) -> None:
    x, weight = tokens(), dequantize(matrix, how, IN).numpy()
    plain, biased = run(in_float_activations(model), x)
    assert np.all(np.abs(plain - x @ weight.T) <= 1e-5 * np.abs(x).max(-1, keepdims=True) * np.abs(weight).sum(1))
    assert np.allclose(biased - np.arange(OUT), plain, atol=1e-4)


def test_the_weight_is_made_when_the_file_is_opened(model: Path, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "opened.onnx")
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    opened = onnx.load(tmp_path / "opened.onnx").graph
    assert {node.op_type for node in opened.node}.isdisjoint({"Reshape", "Slice"})
    weights = [tensor for tensor in opened.initializer if tuple(tensor.dims) == (IN, OUT)]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.INT8}


def test_levels_come_back() -> None:
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(2))
    rows, blocks = (quantize(weight, how).packed for how in GRIDS.values())
    assert torch.equal(of_columns(as_columns(rows)), rows)
    assert torch.equal(of_nibbles(as_nibbles(blocks), (3, 32, OUT)), blocks)
