"""ONNX Runtime's operators on block-quantised weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from converters.onnx.graph.graph import MS_DOMAIN, GraphBuilder
from converters.onnx.graph.integers import in_floats
from converters.onnx.precision import kernel_bits
from converters.onnx.weights.quantize import planes
from converters.onnx.weights.weights import QuantizedTensors
from seap_export.pruning.rounding.grid import BlockQuantization

_OF_A_MATRIX = 2


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix quantised in blocks along its columns, as operators read it.

    Attributes:
        shape: Rows and columns.
        block_size: Number of columns that share a scale.
        packed: uint8 [rows, blocks, block_size * bits / 8].
        scales: [rows, blocks], in the dtype of activations.
        zero_points: uint8 [rows, ceil(blocks * bits / 8)]; None: 2^(bits - 1) for every block.
    """

    shape: tuple[int, int]
    bits: int
    block_size: int
    packed: ir.Value
    scales: ir.Value
    zero_points: ir.Value | None

    @classmethod
    def of(
        cls,
        g: GraphBuilder,
        tensors: QuantizedTensors,
        shape: tuple[int, ...],
        grid: BlockQuantization,
        dtype: ir.DataType,
    ) -> QuantizedWeight:
        """A matrix, or those of all experts, whose tensors the graph stores.

        What operators do not read as it is stored is made of it by nodes on constants, which ONNX Runtime computes
        once, when it opens the file.
        """
        bits, scales = kernel_bits(grid.bits), g.initializer(tensors.scales)
        if tensors.scales.dtype != dtype:
            scales = g.node("Cast", [scales], f"{scales.name}.wide", attributes={"to": dtype})
        packed = g.initializer(tensors.packed)
        if grid.bits != bits:
            if len(shape) > _OF_A_MATRIX:
                raise ValueError(f"experts are not stored in {grid.bits} bits")
            packed = _unpacked(g, packed, grid)
            # a level of fewer bits is in the middle of those of the kernel that begin with them
            factor = np.array(2.0 ** (grid.bits - bits), dtype.numpy())
            scales = g.node("Mul", [scales, g.constant(f"step_{grid.bits}", factor)], f"{scales.name}.steps")
        points = None if tensors.zero_points is None else g.initializer(tensors.zero_points)
        return cls((shape[-2], shape[-1]), bits, grid.block_size, packed, scales, points)


def _unpacked(g: GraphBuilder, packed: ir.Value, grid: BlockQuantization) -> ir.Value:
    """The bytes that a kernel reads, of those that are stored; see `planes`.

    The stored bits are the upper ones of a kernel's weight. The highest of those below them is 1, the others are 0:
    weights are (q + 1/2 - 2^(bits - 1)) * scale, which is what zero points of symmetric blocks say.
    """
    name, bits, widths = str(packed.name), kernel_bits(grid.bits), planes(grid.bits)
    below = bits - grid.bits
    whole = g.constant(f"half_{grid.bits}", _bytes(1 << (below - 1), bits))
    for plane, width in zip(_planes(g, packed, grid), widths, strict=True):
        label = f"{name}.{width}"
        shifts = g.constant(f"shifts_{width}_{bits}", np.arange(0, bits, width, dtype=np.uint8)[:, None])
        mask = g.constant(f"mask_{width}_{bits}", _bytes((1 << width) - 1, bits))
        each = g.node("Unsqueeze", [plane, g.ints(2)], f"{label}.unsqueezed")
        each = _shifted(g, each, shifts, "RIGHT", f"{label}.shifted")
        each = g.node("BitwiseAnd", [each, mask], f"{label}.masked")
        if below:
            place = g.constant(f"shift_{below}", np.array(below, np.uint8))
            each = _shifted(g, each, place, "LEFT", f"{label}.placed")
        each = g.node("Reshape", [each, g.ints(0, 0, -1)], f"{label}.bytes")
        whole, below = g.node("BitwiseOr", [each, whole], f"{label}.joined"), below + width
    return whole


def _planes(g: GraphBuilder, packed: ir.Value, grid: BlockQuantization) -> Sequence[ir.Value]:
    widths = planes(grid.bits)
    if len(widths) == 1:
        return [packed]
    sizes = g.ints(*(grid.block_size * width // 8 for width in widths))
    names = [str(width) for width in widths]
    return g.node_with_outputs("Split", [packed, sizes], f"{packed.name}.planes", names, attributes={"axis": 2})


def _shifted(g: GraphBuilder, x: ir.Value, by: ir.Value, direction: str, name: str) -> ir.Value:
    return g.node("BitShift", [x, by], name, attributes={"direction": direction})


def _bytes(weight: int, bits: int) -> NDArray[np.uint8]:
    """The byte all of whose weights are `weight`, uint8 []."""
    return np.array(weight if bits == 8 else weight * 0x11, np.uint8)


def matmul_blocks(
    g: GraphBuilder,
    x: ir.Value,
    weight: QuantizedWeight,
    name: str,
    accuracy_level: int,
    bias: ir.Value | None = None,
) -> ir.Value:
    """`x @ weight.T + bias`, with `weight` quantised in blocks along its columns, at the provider's accuracy level."""
    rows, columns = weight.shape
    attributes = {
        "N": rows,
        "K": columns,
        "bits": weight.bits,
        "block_size": weight.block_size,
        "accuracy_level": accuracy_level,
    }
    inputs = [x, weight.packed, weight.scales, weight.zero_points, None, bias]
    while inputs[-1] is None:
        inputs.pop()
    return g.node("MatMulNBits", inputs, name, domain=MS_DOMAIN, attributes=attributes)


def embedding_blocks(g: GraphBuilder, table: QuantizedWeight, ids: ir.Value, name: str) -> ir.Value:
    """Looks up the rows `ids` of a quantised table [vocab, hidden], whose rows are whole numbers of blocks."""
    rows, columns = table.shape
    flat = g.ints(rows, columns * table.bits // 8, name=f"{name}.shape")
    packed = g.node("Reshape", [table.packed, flat], f"{name}.rows")  # the same bytes that MatMulNBits reads
    inputs = [packed, ids, table.scales, table.zero_points]
    attributes = {"bits": table.bits, "block_size": table.block_size, "gather_axis": 0, "quantize_axis": 1}
    return g.node(
        "GatherBlockQuantized",
        inputs if table.zero_points is not None else inputs[:-1],
        name,
        domain=MS_DOMAIN,
        attributes=attributes,
    )


def in_float_activations(model: Path) -> bytes:
    """An .onnx file's content, with products that do not round activations to int8; its data file is not read.

    Nothing else changes, so that the result shows what such rounding does.
    """
    proto = onnx.load(model, load_external_data=False)
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        for attribute in node.attribute if node.op_type in ("MatMulNBits", "QMoE") else ():
            if attribute.name == "accuracy_level":
                attribute.i = 0
        if node.op_type in ("QuantizeLinear", "MatMulIntegerToFloat"):
            nodes += in_floats(node)
        else:
            nodes += _float_experts(node, proto.graph) if node.op_type == "QMoE" else [node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    content: bytes = proto.SerializeToString()
    return content


def _float_experts(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """A mixture of experts on weights of 8 bits, for which the CPU has no float kernel, with these made floats."""
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if attributes.pop("expert_weight_bits") != 8:
        return [node]
    block_size = attributes.pop("block_size")
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes |= {
        other.output[0]: shapes[other.input[0]]
        for other in graph.node
        if other.op_type == "Cast" and other.input[0] in shapes
    }
    points = (*node.input[11:13], "", "")[:2]
    nodes, weights = [], []
    for packed, scales, point in zip(node.input[2:6:3], node.input[3:7:3], points, strict=True):
        if not point:
            point = f"{packed}.middle"
            middle = np.full(shapes[scales], 128, np.uint8)
            graph.initializer.append(onnx.numpy_helper.from_array(middle, point))
        floats = f"{packed}.floats"
        made = onnx.helper.make_node(
            "DequantizeLinear", [packed, scales, point], [floats], floats, axis=2, block_size=block_size
        )
        nodes.append(made)
        weights.append(floats)
    kept = {name: value for name, value in attributes.items() if name not in ("accuracy_level", "weights_prepacked")}
    biases = (*node.input[4:8:3], "", "")[:2]
    inputs = [*node.input[:2], weights[0], biases[0], weights[1], *filter(None, biases[1:])]
    return [*nodes, onnx.helper.make_node("MoE", inputs, node.output, node.name, domain=MS_DOMAIN, **kept)]
