"""ONNX Runtime's operators on block-quantised weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from converters.onnx.graph.graph import MS_DOMAIN, GraphBuilder
from converters.onnx.weights.weights import QuantizedTensors
from seap_export.pruning.rounding.grid import BlockQuantization

#: The accuracy level at which MatMulNBits on the CPU multiplies in int8, scaling each block of activations; only this
#: makes weight-only quantisation faster than float32 there. CUDA ignores it and computes in the activations' dtype.
_INT8_ACTIVATIONS = 4


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix quantised in blocks along its columns, in the layout of `converters.onnx.weights.quantize`.

    Attributes:
        shape: Rows and columns.
        bits: 4 or 8.
        block_size: Number of columns that share a scale.
        packed: uint8 [rows, blocks, block_size * bits / 8].
        scales: [rows, blocks].
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
        cls, g: GraphBuilder, tensors: QuantizedTensors, shape: tuple[int, ...], how: BlockQuantization
    ) -> QuantizedWeight:
        """A matrix, or those of all experts, whose tensors the graph stores."""
        packed, scales = g.initializer(tensors.packed), g.initializer(tensors.scales)
        points = None if tensors.zero_points is None else g.initializer(tensors.zero_points)
        return cls((shape[-2], shape[-1]), how.bits, how.block_size, packed, scales, points)


def matmul_blocks(
    g: GraphBuilder, x: ir.Value, weight: QuantizedWeight, name: str, bias: ir.Value | None = None
) -> ir.Value:
    """`x @ weight.T + bias`, with `weight` quantised in blocks along its columns."""
    rows, columns = weight.shape
    attributes = {
        "N": rows,
        "K": columns,
        "bits": weight.bits,
        "block_size": weight.block_size,
        "accuracy_level": _INT8_ACTIVATIONS,
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
