"""The graph that transformers.js runs: that of the fused dialect, with one more input.

transformers.js gives the input `num_logits_to_keep` to a graph that has it: 1 while it generates, so that a prompt's
logits take one row and not one for each token (of 1,000 tokens and a vocabulary of 49,152 they would take 197 MB), and
0, for all rows, when a model is called by itself.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from converters.web.onnx_parts import LazyWeights, OnnxForm, Precision, Scaling, decoder_graph
from seap_export.families import ModelSpec

__all__ = ["KEPT", "web_graph"]

#: The input, int64 [], whose name transformers.js knows.
KEPT = "num_logits_to_keep"
_HEAD = "lm_head"
_PRODUCER = "seap-export"


def web_graph(spec: ModelSpec, weights: LazyWeights, precision: Precision, scaling: Scaling) -> ir.Model:
    """Builds the graph, without reading weights; for its other inputs and outputs, see `decoder_graph`.

    Args:
        spec: The model's shapes.
        weights: Its weights, in the precision.
        precision: What the graph computes in and stores.
        scaling: What keeps fp16 within its range.
    """
    model = decoder_graph(spec, weights, OnnxForm(precision), scaling).build(_PRODUCER)
    _keep_logits(model.graph)
    return model


def _keep_logits(graph: ir.Graph) -> None:
    """Cuts what the LM head reads to the last tokens; a start of -0 keeps all of them."""
    head = next(node for node in graph if node.name == _HEAD)
    kept = ir.Value(name=KEPT, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
    graph.inputs.append(kept)
    flat, end, axis = (
        _constant(graph, label, number)
        for label, number in (("flat", -1), ("end", np.iinfo(np.int64).max), ("axis", 1))
    )
    reshaped = _node("Reshape", [kept, flat], "flat")
    start = _node("Neg", [reshaped.outputs[0]], "start")
    cut = _node("Slice", [head.inputs[0], start.outputs[0], end, axis], "tokens")
    graph.insert_before(head, [reshaped, start, cut])
    head.replace_input_with(0, cut.outputs[0])
    logits = graph.outputs[0]
    assert logits.shape is not None
    # not the name of another dimension: ONNX Runtime takes dimensions of one name for equal
    logits.shape = ir.Shape([logits.shape[0], "kept_length", logits.shape[2]])


def _constant(graph: ir.Graph, label: str, number: int) -> ir.Value:
    tensor = ir.Tensor(np.array([number], np.int64), name=f"{KEPT}.{label}")
    value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([1]), const_value=tensor)
    graph.register_initializer(value)
    return value


def _node(op_type: str, inputs: list[ir.Value | None], label: str) -> ir.Node:
    name = f"{KEPT}.{label}.node"
    return ir.Node("", op_type, inputs, outputs=[ir.Value(name=f"{name}.output")], name=name)
