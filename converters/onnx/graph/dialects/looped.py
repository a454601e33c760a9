"""Mixtures of experts that ONNX Runtime's operator MoE does not compute: one expert after another, on its tokens."""

from __future__ import annotations

import onnx_ir as ir

from converters.onnx.graph.blocks import QuantizedWeight
from converters.onnx.graph.dialects.mixtures import ExpertWeights, Matrix, Routed, routing_weights
from converters.onnx.graph.graph import MS_DOMAIN, GraphBuilder
from converters.onnx.graph.operators import activation, cast, multiply
from seap_export.model.families import Experts
from seap_export.model.families.sublayers import Gates

_FLOAT = ir.DataType.FLOAT


def is_looped(experts: Experts) -> bool:
    """Whether a mixture is computed in this way: with other gates than SwiGLU, or with scales of experts."""
    return experts.activation != "silu" or experts.has_expert_scale


def looped_experts(
    g: GraphBuilder, experts: Experts, x: ir.Value, routed: Routed, weights: ExpertWeights, name: str
) -> ir.Value:
    """A loop over the experts that some token has; see `Dialect.experts`. Sums are float32."""
    assert experts.gates == Gates()
    assert weights.gate_up_bias is None
    assert weights.output_bias is None
    hidden_size = _shape(weights.output)[0]
    tokens = g.node("Reshape", [x, g.ints(-1, hidden_size)], f"{name}.tokens")
    routing, indices = routing_weights(g, experts, routed, name)
    every = g.node("Reshape", [indices, g.ints(-1)], f"{name}.choices")
    needed = g.node("Unique", [every], f"{name}.needed")
    wide = tokens if routed.dtype == _FLOAT else cast(g, tokens, _FLOAT, f"{name}.wide_tokens")
    nothing = g.node("Sub", [wide, wide], f"{name}.no_output")
    body = _body(g, experts, (tokens, routing, needed), routed.dtype, weights, f"{name}.expert")
    number = g.node("Size", [needed], f"{name}.number")
    total = g.node("Loop", [number, None, nothing], f"{name}.total", attributes={"body": body})
    total = total if routed.dtype == _FLOAT else cast(g, total, routed.dtype, f"{name}.narrow_total")
    return g.node("Reshape", [total, g.node("Shape", [x], f"{name}.shape")], name)


def _body(
    outer: GraphBuilder,
    experts: Experts,
    given: tuple[ir.Value, ir.Value, ir.Value],
    dtype: ir.DataType,
    weights: ExpertWeights,
    name: str,
) -> ir.Graph:
    """Adds one expert's output to the total, float32 [tokens, hidden_size].

    Args:
        given: The input of the experts [tokens, hidden_size], their weights for each token [tokens, experts], and
            which experts there are.
    """
    g, (tokens, routing, needed), width = GraphBuilder(name), given, experts.moe_intermediate_size
    step = g.input(f"{name}.step", ir.DataType.INT64, [])
    goes_on = g.input(f"{name}.goes_on", ir.DataType.BOOL, [])
    total = g.input(f"{name}.total_before", _FLOAT, [None, None])
    expert = g.node("Gather", [needed, step], f"{name}.index")
    of_tokens = g.node("Gather", [routing, expert], f"{name}.weights", attributes={"axis": 1})
    rows = g.node("Transpose", [g.node("NonZero", [of_tokens], f"{name}.columns")], f"{name}.rows")
    read = g.node("GatherND", [tokens, rows], f"{name}.read")
    factors = g.node("GatherND", [of_tokens, rows], f"{name}.factor")
    both = _product(g, read, weights.gate_up, expert, f"{name}.both")
    end, axis, two = outer.ints(2 * width), outer.ints(1), outer.ints(2)
    gate, up = (
        g.node("Slice", [both, outer.ints(start), end, axis, two], f"{name}.{label}")
        for start, label in ((0, "gate"), (1, "up"))
    )
    activated = _activated(g, experts, gate, f"{name}.activated")
    factor = g.node("Unsqueeze", [factors, axis], f"{name}.factors")
    neurons = multiply(g, multiply(g, activated, up, f"{name}.neurons"), factor, f"{name}.weighted")
    written = _product(g, neurons, weights.output, expert, f"{name}.written")
    written = written if dtype == _FLOAT else cast(g, written, _FLOAT, f"{name}.wide")
    after = g.node("ScatterND", [total, rows, written], f"{name}.total", attributes={"reduction": "add"})
    g.output(g.node("Identity", [goes_on], f"{name}.again"), f"{name}.goes_on_after", ir.DataType.BOOL, [])
    g.output(after, f"{name}.total_after", _FLOAT, [None, None])
    return g.subgraph()


def _activated(g: GraphBuilder, experts: Experts, gate: ir.Value, name: str) -> ir.Value:
    if experts.activation == "silu":
        return multiply(g, gate, g.node("Sigmoid", [gate], f"{name}.sigmoid"), name)
    return activation(g, experts.activation, gate, name)


def _product(g: GraphBuilder, x: ir.Value, matrix: Matrix, expert: ir.Value, name: str) -> ir.Value:
    """`x` times the transposed matrix of an expert, which is unpacked if it is packed."""
    if isinstance(matrix, QuantizedWeight):
        weight = g.node(
            "GatherBlockQuantized",
            [matrix.packed, expert, matrix.scales, matrix.zero_points],
            f"{name}.matrix",
            domain=MS_DOMAIN,
            attributes={"bits": matrix.bits, "block_size": matrix.block_size, "gather_axis": 0, "quantize_axis": 2},
        )
    else:
        weight = g.node("Gather", [matrix, expert], f"{name}.matrix")
    return g.node("Gemm", [x, weight], name, attributes={"transB": 1})


def _shape(matrix: Matrix) -> tuple[int, int]:
    """The (out, in) shape of each expert's matrix."""
    if isinstance(matrix, QuantizedWeight):
        return matrix.shape
    assert matrix.shape is not None
    _, rows, columns = matrix.shape.numpy()
    return rows, columns
