"""The graph that transformers.js runs: that of the portable dialect, with one more input.

transformers.js gives the input `num_logits_to_keep` to a graph that has it: 1 while it generates, so that a prompt's
logits take one row and not one for each token (of 1,000 tokens and a vocabulary of 49,152 they would take 197 MB), and
0, for all rows, when a model is called by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from converters.onnx.form import OnnxForm
from converters.onnx.graph.decoder import decoder_graph
from converters.onnx.graph.dialects.portable import PortableDialect
from converters.onnx.precision import Precision
from converters.onnx.weights.scaling import Scaling
from converters.onnx.weights.weights import LazyWeights
from seap_export.model.families import ModelSpec

#: The input, int64 [], whose name transformers.js knows.
KEPT = "num_logits_to_keep"
_HEAD = "lm_head"
_PRODUCER = "seap-export"
#: What transformers.js calls the states of a fixed size. Those of recurrences have several names there, of which one
#: belongs to a type of models that has every state.
_STATES = {"conv": "conv", "recurrent": "ssm"}


def web_graph(spec: ModelSpec, weights: LazyWeights, precision: Precision, scaling: Scaling) -> ir.Model:
    """Builds the graph, without reading weights; for its other inputs and outputs, see `decoder_graph`."""
    model = decoder_graph(spec, weights, OnnxForm(precision), scaling, PortableDialect).build(_PRODUCER)
    _keep_logits(model.graph)
    _rename_states(model.graph)
    return model


def shape_graph(spec: ModelSpec, precision: Precision) -> ir.Model:
    """The graph of a model whose weights are not at hand, which can be laid out but not written."""
    return web_graph(spec, LazyWeights(_Shapes(spec), precision), precision, Scaling())


class _Shapes:
    """A reader of the plain form whose tensors are zeros; none that is larger than a vector is made."""

    def __init__(self, spec: ModelSpec) -> None:
        self._shapes = spec.tensors()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor."""
        return dict(self._shapes)

    def dtypes(self) -> dict[str, torch.dtype]:
        """The dtype of every tensor: float32."""
        return dict.fromkeys(self._shapes, torch.float32)

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The named tensors as float32 zeros that take no memory."""
        return {name: torch.zeros(()).expand(self._shapes[name]) for name in names}


def _rename_states(graph: ir.Graph) -> None:
    for value in (*graph.inputs, *graph.outputs):
        if (state := re.fullmatch(r"(past|present)\.(\d+)\.(conv|recurrent)", str(value.name))) is not None:
            value.name = f"{state[1]}_{_STATES[state[3]]}.{state[2]}"


def _keep_logits(graph: ir.Graph) -> None:
    """Cuts what the LM head reads to the last tokens; a start of -0 keeps all of them."""
    head = next(node for node in graph if node.name == _HEAD)
    kept = ir.Value(name=KEPT, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
    graph.inputs.append(kept)
    flat, end, axis = (
        _constant(graph, f"{KEPT}.{label}", np.array([number], np.int64))
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


def _constant(graph: ir.Graph, name: str, numbers: NDArray[Any]) -> ir.Value:
    tensor = ir.Tensor(numbers, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def _node(op_type: str, inputs: list[ir.Value | None], label: str) -> ir.Node:
    name = f"{KEPT}.{label}.node"
    return ir.Node("", op_type, inputs, outputs=[ir.Value(name=f"{name}.output")], name=name)
