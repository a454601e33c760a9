"""Mixtures of experts: in ONNX Runtime's operators, and in those of the standard."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from converters.onnx.graph.blocks import QuantizedWeight
from converters.onnx.graph.graph import MS_DOMAIN, GraphBuilder
from converters.onnx.graph.operators import multiply
from seap_export.families import Experts

__all__ = ["Matrix", "fused_experts", "standard_experts"]

#: The matrices of all experts, [experts, out, in].
Matrix: TypeAlias = ir.Value | QuantizedWeight
#: The accuracy level at which experts of 4 bits are multiplied in int8; those of 8 bits always are.
_INT8_ACTIVATIONS = 4


def fused_experts(
    g: GraphBuilder, experts: Experts, x: ir.Value, logits: ir.Value, matrices: tuple[Matrix, Matrix], name: str
) -> ir.Value:
    """A single node, which chooses the experts and computes no others; see `Dialect.experts`.

    Its kernels agree on weights that sum to 1 only (those of the CPU in 1.31 get others wrong), so that a sum of less
    is multiplied afterwards.
    """
    attributes: dict[str, object] = {
        "k": experts.experts_per_token,
        "normalize_routing_weights": 1,
        "activation_type": "swiglu",
        "swiglu_fusion": 1,
        "activation_alpha": 1.0,
        "activation_beta": 0.0,
    }
    gate_up, output = matrices
    written = name if experts.is_normalised else f"{name}.normalised"
    if isinstance(gate_up, QuantizedWeight) and isinstance(output, QuantizedWeight):
        attributes |= {
            "expert_weight_bits": gate_up.bits,
            "block_size": gate_up.block_size,
            "accuracy_level": _INT8_ACTIVATIONS,
            "weights_prepacked": 0,
        }
        inputs = [x, logits, gate_up.packed, gate_up.scales, None, output.packed, output.scales]
        if gate_up.zero_points is not None:
            inputs += [None, None, None, None, gate_up.zero_points, output.zero_points]
        product = g.node("QMoE", inputs, written, domain=MS_DOMAIN, attributes=attributes)
    else:
        assert isinstance(gate_up, ir.Value)
        assert isinstance(output, ir.Value)
        inputs = [x, logits, gate_up, None, output]
        product = g.node("MoE", inputs, written, domain=MS_DOMAIN, attributes=attributes)
    return product if experts.is_normalised else _times_sum(g, experts, product, logits, name)


def _times_sum(g: GraphBuilder, experts: Experts, product: ir.Value, logits: ir.Value, name: str) -> ir.Value:
    """A product, times the sum of the probabilities of each token's experts."""
    chosen, _ = _chosen(g, experts, logits, name)
    total = g.node("ReduceSum", [chosen, _ints(g, -1)], f"{name}.sum")
    outer = g.node("Shape", [product], f"{name}.outer", attributes={"end": 2})
    shape = g.node("Concat", [outer, _ints(g, 1)], f"{name}.shape", attributes={"axis": 0})
    return multiply(g, product, g.node("Reshape", [total, shape], f"{name}.factor"), name)


def _chosen(g: GraphBuilder, experts: Experts, logits: ir.Value, name: str) -> tuple[ir.Value, ir.Value]:
    """The probabilities of each token's experts, [tokens, experts_per_token], and which these are."""
    probabilities = g.node("Softmax", [logits], f"{name}.probabilities", attributes={"axis": -1})
    number = _ints(g, experts.experts_per_token)
    chosen, places = g.node_with_outputs(
        "TopK", [probabilities, number], f"{name}.chosen", ["values", "indices"], attributes={"axis": -1}
    )
    return chosen, places


def _ints(g: GraphBuilder, *values: int) -> ir.Value:
    label = "_".join(map(str, values)).replace("-", "minus")
    return g.constant(f"ints_{label}", np.array(values, np.int64))


def standard_experts(
    g: GraphBuilder,
    experts: Experts,
    x: ir.Value,
    logits: ir.Value,
    matrices: tuple[Matrix, Matrix],
    activated: Callable[[ir.Value, str], ir.Value],
    name: str,
) -> ir.Value:
    """Every expert computes every token, and what it should not have computed counts 0; see `Dialect.experts`.

    Args:
        g: The graph.
        experts: The mixture.
        x: [batch_size, sequence_length, hidden_size].
        logits: The router's product, [tokens, experts].
        matrices: Those of gate and up, whose rows take turns, and those of the output projection.
        activated: Emits the activation.
        name: Name of the node that gives the output.
    """
    gate_up, output = matrices
    assert isinstance(gate_up, ir.Value)
    assert isinstance(output, ir.Value)

    def transposed(value: ir.Value, order: tuple[int, ...], label: str) -> ir.Value:
        return g.node("Transpose", [value], f"{name}.{label}", attributes={"perm": order})

    hidden_size = int(output.shape.numpy()[1])  # type: ignore[union-attr]
    tokens = g.node("Reshape", [x, _ints(g, 1, -1, hidden_size)], f"{name}.tokens")
    both = g.node("MatMul", [tokens, transposed(gate_up, (0, 2, 1), "gate_up")], f"{name}.both")
    end, axis, step = _ints(g, 2 * experts.moe_intermediate_size), _ints(g, 2), _ints(g, 2)
    gate, up = (
        g.node("Slice", [both, _ints(g, start), end, axis, step], f"{name}.{label}")
        for start, label in ((0, "gate"), (1, "up"))
    )
    neurons = multiply(g, activated(gate, f"{name}.activated"), up, f"{name}.neurons")
    weights = transposed(_routing_weights(g, experts, logits, name), (1, 0), "weights_by_expert")
    weights = g.node("Unsqueeze", [weights, _ints(g, 2)], f"{name}.weights_by_neuron")
    weighted = multiply(g, neurons, weights, f"{name}.weighted")
    written = g.node("MatMul", [weighted, transposed(output, (0, 2, 1), "output_projection")], f"{name}.written")
    total = g.node("ReduceSum", [written, _ints(g, 0)], f"{name}.total", attributes={"keepdims": 0})
    return g.node("Reshape", [total, g.node("Shape", [x], f"{name}.shape")], name)


def _routing_weights(g: GraphBuilder, experts: Experts, logits: ir.Value, name: str) -> ir.Value:
    """The weight of each expert for each token, [tokens, experts]."""
    chosen, places = _chosen(g, experts, logits, name)
    if experts.is_normalised:
        total = g.node("ReduceSum", [chosen, _ints(g, -1)], f"{name}.sum")
        chosen = g.node("Div", [chosen, total], f"{name}.normalised")
    nothing = g.node("Sub", [logits, logits], f"{name}.nothing")
    return g.node("ScatterElements", [nothing, places, chosen], f"{name}.weights", attributes={"axis": -1})
