"""Mixtures of experts: in ONNX Runtime's operators, and in those of the standard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from converters.onnx.graph.blocks import QuantizedWeight
from converters.onnx.graph.graph import MS_DOMAIN, GraphBuilder
from converters.onnx.graph.operators import add, cast, multiply, scalar, scaled
from seap_export.model.families import Experts
from seap_export.model.families.sublayers import Gates

#: The matrices of all experts, [experts, out, in].
Matrix: TypeAlias = ir.Value | QuantizedWeight
#: How QMoE reads weights, and that it multiplies experts of 4 bits in int8; those of 8 bits it always does.
OF_ROUNDED: Mapping[str, int] = MappingProxyType({"accuracy_level": 4, "weights_prepacked": 0})
#: A logit whose probability is 0, and which float16 has.
_NEVER = -10_000.0


@dataclass(frozen=True)
class ExpertWeights:
    """The weights of all experts; a bias that is None is missing.

    Attributes:
        gate_up_bias: The biases of gate and up, in the order of their rows, [experts, out].
        output_bias: The biases of the output projections, [experts, hidden_size].
    """

    gate_up: Matrix
    output: Matrix
    gate_up_bias: ir.Value | None = None
    output_bias: ir.Value | None = None


@dataclass(frozen=True)
class Routed:
    """The products of a router, and what is made of them.

    Attributes:
        logits: The products, [tokens, experts].
        selection_bias: Bias on the scores by which experts are chosen, float32 [experts]; None: there is none.
        expert_scale: Factor on the neurons of each expert, float32 [experts]; None: there is none.
    """

    logits: ir.Value
    dtype: ir.DataType
    selection_bias: ir.Value | None = None
    expert_scale: ir.Value | None = None


def fused_experts(
    g: GraphBuilder,
    experts: Experts,
    x: ir.Value,
    routed: Routed,
    weights: ExpertWeights,
    name: str,
    of_rounded: Mapping[str, int] = OF_ROUNDED,
) -> ir.Value:
    """A single node, which chooses the experts and computes no others; see `Dialect.experts`.

    Its kernels agree on weights that sum to 1 only (those of the CPU in 1.31 get others wrong), so that another sum is
    multiplied afterwards. They know the softmax alone: of other scores they get the
    logarithms of those that are chosen. `of_rounded` are attributes of QMoE, which not all releases know.
    """
    is_usual = experts.scores == "softmax" and not experts.has_selection_bias
    logits, factor = routed.logits, None
    if not (is_usual and experts.is_normalised):
        chosen, indices = _chosen(g, experts, routed, name)
        factor = None if experts.is_normalised else _sum(g, chosen, routed, f"{name}.sum")
        logits = logits if is_usual else _logarithms(g, chosen, indices, routed, name)
    attributes: dict[str, object] = {
        "k": experts.experts_per_token,
        "normalize_routing_weights": 1,
        "activation_type": "swiglu",
        "swiglu_fusion": 1,
        "activation_alpha": experts.gates.alpha,
        "activation_beta": experts.gates.offset,
    }
    if experts.gates.limit is not None:
        attributes["swiglu_limit"] = experts.gates.limit
    gate_up, output, biases = weights.gate_up, weights.output, (weights.gate_up_bias, weights.output_bias)
    scale = None if experts.scaling == 1.0 else experts.scaling
    written = name if factor is None and scale is None else f"{name}.normalised"
    if isinstance(gate_up, QuantizedWeight) and isinstance(output, QuantizedWeight):
        attributes |= {
            "expert_weight_bits": gate_up.bits,
            "block_size": gate_up.block_size,
            **of_rounded,
        }
        inputs = [x, logits, gate_up.packed, gate_up.scales, biases[0], output.packed, output.scales, biases[1]]
        if gate_up.zero_points is not None:
            inputs += [None, None, None, gate_up.zero_points, output.zero_points]
        product = g.node("QMoE", inputs, written, domain=MS_DOMAIN, attributes=attributes)
    else:
        assert isinstance(gate_up, ir.Value)
        assert isinstance(output, ir.Value)
        inputs = [x, logits, gate_up, biases[0], output, biases[1]]
        product = g.node("MoE", inputs, written, domain=MS_DOMAIN, attributes=attributes)
    if factor is not None:
        product = _times(g, product, factor, name if scale is None else f"{name}.summed")
    return product if scale is None else scaled(g, product, scale, routed.dtype, name)


def _sum(g: GraphBuilder, chosen: ir.Value, routed: Routed, name: str) -> ir.Value:
    """The sum of the scores of each token's experts, in the dtype of the graph."""
    total = g.node("ReduceSum", [chosen, g.ints(-1)], name)
    return total if routed.dtype == ir.DataType.FLOAT else cast(g, total, routed.dtype, f"{name}.narrow")


def _times(g: GraphBuilder, product: ir.Value, factor: ir.Value, name: str) -> ir.Value:
    """A product [batch_size, sequence_length, hidden_size], times a number for each token."""
    outer = g.node("Shape", [product], f"{name}.outer", attributes={"end": 2})
    shape = g.node("Concat", [outer, g.ints(1)], f"{name}.shape", attributes={"axis": 0})
    return multiply(g, product, g.node("Reshape", [factor, shape], f"{name}.factor"), name)


def _logarithms(g: GraphBuilder, chosen: ir.Value, indices: ir.Value, routed: Routed, name: str) -> ir.Value:
    """Logits whose softmax gives the chosen experts their scores, but for a factor, and the others nothing."""
    logarithms = g.node("Log", [chosen], f"{name}.logarithms")
    never = add(g, _nothing(g, routed, name), g.constant("never", np.array(_NEVER, np.float32)), f"{name}.never")
    logits = g.node("ScatterElements", [never, indices, logarithms], f"{name}.chosen_logits", attributes={"axis": -1})
    return logits if routed.dtype == ir.DataType.FLOAT else cast(g, logits, routed.dtype, f"{name}.narrow_logits")


def _nothing(g: GraphBuilder, routed: Routed, name: str) -> ir.Value:
    """Zeros for each token and expert, float32 [tokens, experts]."""
    nothing = g.node("Sub", [routed.logits, routed.logits], f"{name}.nothing")
    return (
        nothing if routed.dtype == ir.DataType.FLOAT else cast(g, nothing, ir.DataType.FLOAT, f"{name}.wide_nothing")
    )


def _chosen(g: GraphBuilder, experts: Experts, routed: Routed, name: str) -> tuple[ir.Value, ir.Value]:
    """The scores of each token's experts, float32 [tokens, experts_per_token], and which these are."""
    logits, bias, number = routed.logits, routed.selection_bias, g.ints(experts.experts_per_token)
    if routed.dtype != ir.DataType.FLOAT:
        logits = cast(g, logits, ir.DataType.FLOAT, f"{name}.wide_logits")
    if experts.scores == "sparsemixer":
        return _mixed(g, experts, logits, name)
    if experts.scores == "softmax":
        scores = g.node("Softmax", [logits], f"{name}.probabilities", attributes={"axis": -1})
    else:
        scores = g.node("Sigmoid", [logits], f"{name}.scores")
    preferred = scores if bias is None else add(g, scores, bias, f"{name}.preferred")
    chosen, indices = g.node_with_outputs(
        "TopK", [preferred, number], f"{name}.chosen", ["values", "indices"], attributes={"axis": -1}
    )
    if bias is not None:
        chosen = g.node("GatherElements", [scores, indices], f"{name}.chosen_scores", attributes={"axis": -1})
    return chosen, indices


def _mixed(g: GraphBuilder, experts: Experts, logits: ir.Value, name: str) -> tuple[ir.Value, ir.Value]:
    """The scores of `sparsemixer`, and their experts; the logits are float32."""
    never = g.constant("never", np.array(_NEVER, np.float32))
    farthest = scalar(g, 2 * experts.tolerance, ir.DataType.FLOAT)
    best, indices = g.node_with_outputs(
        "TopK", [logits, g.ints(experts.experts_per_token)], f"{name}.chosen", ["values", "indices"]
    )
    sizes, left, scores = g.node("Abs", [logits], f"{name}.sizes"), logits, []
    for rank in range(experts.experts_per_token):
        label, window = f"{name}.{rank}", (g.ints(rank), g.ints(rank + 1), g.ints(1))
        first, index = (
            g.node("Slice", [value, *window], f"{label}.{part}")
            for value, part in ((best, "best"), (indices, "index"))
        )
        above = g.node("Sub", [first, logits], f"{label}.above")
        distance = g.node("Div", [above, g.node("Max", [sizes, first], f"{label}.size")], f"{label}.distance")
        is_worse = g.node("Greater", [distance, farthest], f"{label}.is_worse")
        among = g.node("Where", [is_worse, never, left], f"{label}.among")
        ratios = g.node("Exp", [g.node("Sub", [among, first], f"{label}.below")], f"{label}.ratios")
        total = g.node("ReduceSum", [ratios, g.ints(-1)], f"{label}.sum")
        scores.append(g.node("Reciprocal", [total], f"{label}.score"))
        hidden = g.node("Expand", [never, g.node("Shape", [index], f"{label}.shape")], f"{label}.never")
        left = g.node("ScatterElements", [left, index, hidden], f"{label}.left", attributes={"axis": -1})
    return g.node("Concat", scores, f"{name}.chosen_scores", attributes={"axis": -1}), indices


def standard_experts(
    g: GraphBuilder,
    experts: Experts,
    x: ir.Value,
    routed: Routed,
    weights: ExpertWeights,
    activated: Callable[[ir.Value, str], ir.Value],
    name: str,
) -> ir.Value:
    """Every expert computes every token, and tokens not routed to it count 0; see `Dialect.experts`."""
    gate_up, output = weights.gate_up, weights.output
    assert isinstance(gate_up, ir.Value)
    assert isinstance(output, ir.Value)

    def transposed(value: ir.Value, order: tuple[int, ...], label: str) -> ir.Value:
        return g.node("Transpose", [value], f"{name}.{label}", attributes={"perm": order})

    hidden_size = int(output.shape.numpy()[1])  # type: ignore[union-attr]
    tokens = g.node("Reshape", [x, g.ints(1, -1, hidden_size)], f"{name}.tokens")
    both = g.node("MatMul", [tokens, transposed(gate_up, (0, 2, 1), "gate_up")], f"{name}.both")
    if weights.gate_up_bias is not None:
        bias = g.node("Unsqueeze", [weights.gate_up_bias, g.ints(1)], f"{name}.gate_up_bias")
        both = add(g, both, bias, f"{name}.both_biased")
    end, axis, step = g.ints(2 * experts.moe_intermediate_size), g.ints(2), g.ints(2)
    gate, up = (
        g.node("Slice", [both, g.ints(start), end, axis, step], f"{name}.{label}")
        for start, label in ((0, "gate"), (1, "up"))
    )
    if experts.gates == Gates():
        neurons = multiply(g, activated(gate, f"{name}.activated"), up, f"{name}.neurons")
    else:
        neurons = _gated(g, experts.gates, gate, up, routed.dtype, name)
    routing = transposed(routing_weights(g, experts, routed, name)[0], (1, 0), "weights_by_expert")
    routing = g.node("Unsqueeze", [routing, g.ints(2)], f"{name}.weights_by_neuron")
    weighted = multiply(g, neurons, routing, f"{name}.weighted")
    written = g.node("MatMul", [weighted, transposed(output, (0, 2, 1), "output_projection")], f"{name}.written")
    if weights.output_bias is not None:
        bias = g.node("Unsqueeze", [weights.output_bias, g.ints(1)], f"{name}.output_bias")
        written = add(g, written, multiply(g, routing, bias, f"{name}.weighted_bias"), f"{name}.written_biased")
    total = g.node("ReduceSum", [written, g.ints(0)], f"{name}.total", attributes={"keepdims": 0})
    return g.node("Reshape", [total, g.node("Shape", [x], f"{name}.shape")], name)


def _gated(g: GraphBuilder, gates: Gates, gate: ir.Value, up: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    """The activations of neurons whose gates have parameters; see `Gates`."""
    if gates.limit is not None:
        most, least = scalar(g, gates.limit, dtype), scalar(g, -gates.limit, dtype)
        gate = g.node("Min", [gate, most], f"{name}.gate_clamped")
        up = g.node("Clip", [up, least, most], f"{name}.up_clamped")
    sigmoid = g.node("Sigmoid", [scaled(g, gate, gates.alpha, dtype, f"{name}.gate_scaled")], f"{name}.sigmoid")
    moved = add(g, up, scalar(g, gates.offset, dtype), f"{name}.up_moved")
    return multiply(g, multiply(g, gate, sigmoid, f"{name}.activated"), moved, f"{name}.neurons")


def routing_weights(g: GraphBuilder, experts: Experts, routed: Routed, name: str) -> tuple[ir.Value, ir.Value]:
    """The weight of each expert for each token, times its scale, [tokens, experts], and the experts of each token."""
    chosen, indices = _chosen(g, experts, routed, name)
    if experts.is_normalised:
        total = g.node("ReduceSum", [chosen, g.ints(-1)], f"{name}.sum")
        chosen = g.node("Div", [chosen, total], f"{name}.normalised")
    chosen = scaled(g, chosen, experts.scaling, ir.DataType.FLOAT, f"{name}.scaled")
    if routed.expert_scale is not None:
        scales = g.node("Gather", [routed.expert_scale, indices], f"{name}.scales")
        chosen = multiply(g, chosen, scales, f"{name}.times_scales")
    nothing = g.node("Sub", [routed.logits, routed.logits], f"{name}.nothing")
    if routed.dtype != ir.DataType.FLOAT:
        chosen = cast(g, chosen, routed.dtype, f"{name}.narrow_weights")
    weights = g.node("ScatterElements", [nothing, indices, chosen], f"{name}.weights", attributes={"axis": -1})
    return weights, indices
