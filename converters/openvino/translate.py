"""Translates the ONNX graph to OpenVINO's: stateful, weights [out, in], and with the inputs that its runtimes give.

The inputs are `input_ids`, `position_ids` and `attention_mask` (cached and new tokens), int64, and `beam_idx`, int32
[batch]: the row of the previous call that each row continues. The cache is state, empty at first, and so are
the states of convolutions and recurrences, which are 0 at first.

OpenVINO GenAI's paged attention, for continuous batching and drafts, is put in the place of this attention and takes
the mask away. It refuses a graph that uses the mask for more than attention, and GenAI goes on without it; so the mask
has another use in graphs that it would compute wrongly. See `Graph.paged_heads` for what others need.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from converters.openvino.attention import attention_translation, ints
from converters.openvino.node_names import settle_names
from converters.openvino.packages import require
from converters.openvino.stored_tensor import StoredTensor, padded
from converters.openvino.tensors import Graph, Weight

_CACHE = re.compile(r"past_key_values\.\d+\.(key|value)|past\.\d+\.(conv|recurrent)")


def translate(graph: Graph) -> Any:
    """The `openvino.Model` of a graph; parameters named as the constants of its weights stand for these."""
    ov, ops = require("openvino"), require("openvino.opset15")
    frontend = require("openvino.frontend").FrontEndManager().load_by_framework("onnx")
    frontend.add_extension(attention_translation(graph.paged_heads))
    model = frontend.convert(frontend.load(io.BytesIO(graph.proto)))
    inputs = {node.get_friendly_name(): node for node in model.get_parameters()}
    outputs = {node.input_value(0).get_any_name(): node for node in model.get_results()}
    positions = _input(ops, "position_ids", [-1, -1], np.int64)
    for node in model.get_ops():
        if node.get_friendly_name() == "position_ids":  # counted from the mask
            _redirect(node.output(0), positions.output(0))
    parameters = [inputs["input_ids"], inputs["attention_mask"], positions]
    beams = _input(ops, "beam_idx", [-1], np.int32)
    if graph.paged_heads is None:
        _use_mask(inputs["input_ids"], inputs["attention_mask"], ops)
    sinks = list(_states(inputs, outputs, beams, ops))
    weights = [node for weight in graph.weights for node in _dequantized(inputs[weight.input_name], weight, ops)]
    outputs["logits"].input_value(0).set_names({"logits"})
    whole = ov.Model([outputs["logits"]], sinks, [*parameters, beams, *weights], "decoder")
    settle_names(whole)
    whole.set_rt_info(ov.get_version(), "openvino_version")
    return whole


def _input(ops: Any, name: str, shape: list[int], dtype: Any) -> Any:
    node = ops.parameter(shape, dtype, name=name)
    node.output(0).set_names({name})
    return node


def _redirect(old: Any, new: Any) -> None:
    for target in old.get_target_inputs():
        target.replace_source_output(new)


def _use_mask(ids: Any, mask: Any, ops: Any) -> None:
    """Multiplies the token ids with the largest number of the mask, which is 1."""
    users = ids.output(0).get_target_inputs()
    same = ops.multiply(ids, ops.reduce_max(mask, ints(0, 1), False))
    for user in users:
        user.replace_source_output(same.output(0))


def _states(inputs: Mapping[str, Any], outputs: Mapping[str, Any], beams: Any, ops: Any) -> Iterator[Any]:
    """Turns the caches into states; gives the nodes that update them."""
    first = np.array([0], np.int64)
    rows = ops.gather(ops.shape_of(inputs["input_ids"], "i64"), first, np.array(0, np.int64))
    for name, past in inputs.items():
        if not _CACHE.fullmatch(name):
            continue
        present = re.sub(r"past\w*", "present", name)
        shape = past.get_output_partial_shape(0)
        sizes = ints(*(0 if size.is_dynamic else size.get_length() for size in list(shape)[1:]))
        empty = ops.broadcast(np.array(0, np.float32), ops.concat([rows, sizes], 0))
        state = name + present
        read = ops.read_value(empty, state, np.float32, shape)
        _redirect(past.output(0), ops.gather(read, beams, np.array(0, np.int64)).output(0))
        yield ops.assign(outputs[present].input_value(0).get_node(), state)


def _dequantized(parameter: Any, weight: Weight, ops: Any) -> list[Any]:
    """Replaces a graph's input by parameters that stand for its stored tensors, and returns these."""
    nodes = [_stand_in(tensor, ops) for tensor in weight.tensors]
    numbers = _numbers(nodes, weight, ops)
    for target in parameter.output(0).get_target_inputs():
        user = target.get_node()
        if weight.is_transposed:
            _multiply(user.input_value(0), numbers, weight.shape[1], user, ops)
        elif user.get_type_name() == "MatMul":  # the tied head: Gemm of rows, which are put in shape again
            _multiply(user.input_value(0).get_node().input_value(0), numbers, weight.shape[1], _reshaped(user), ops)
        else:
            target.replace_source_output(numbers.output(0))
    return nodes


def _multiply(x: Any, numbers: Any, columns: int, old: Any, ops: Any) -> None:
    """Puts `x @ numbers.T` in the place of a node; `numbers` may have further columns, of zeros."""
    further = numbers.get_output_partial_shape(0)[1].get_length() - columns
    if further:
        x = ops.pad(x, ints(0, 0, 0), ints(0, 0, further), "constant", np.array(0, np.float32))
    product = ops.matmul(x, numbers, False, True)
    product.set_friendly_name(old.get_friendly_name())
    product.output(0).set_names(old.output(0).get_names())
    _redirect(old.output(0), product.output(0))


def _reshaped(node: Any) -> Any:
    """The first node of another shape after a node with one user at each step."""
    while node.get_type_name() != "Reshape":
        (target,) = node.output(0).get_target_inputs()
        node = target.get_node()
    return node


def _stand_in(tensor: StoredTensor, ops: Any) -> Any:
    kind = getattr(require("openvino").Type, tensor.element_type)
    return ops.parameter(list(tensor.shape), kind, name=tensor.name)


def _numbers(nodes: list[Any], weight: Weight, ops: Any) -> Any:
    """The float32 value of a weight, in its shape; integers keep the zeros that fill their last block.

    This is the pattern of compressed weights: plugins keep them as they are stored.
    """
    if len(nodes) == 2:
        rows, columns = weight.shape
        levels, scales = nodes
        scaled = ops.multiply(ops.convert(levels, "f16"), scales)
        return ops.convert(ops.reshape(scaled, ints(rows, padded(columns)), False), "f32")
    (stored,) = nodes
    return stored if weight.tensors[0].element_type == "f32" else ops.convert(stored, "f32")
