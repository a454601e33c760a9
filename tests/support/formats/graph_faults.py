"""Faults that are planted in a graph file of the fused dialect: in nodes, tensors, types, and what else is read.

Each would be found by comparing the graph with the one that its model gives, and many by nothing else: a token that no
prompt holds, a place that no prompt reaches, an option that one runtime knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Edit = Callable[[onnx.ModelProto], object]
#: A token that the texts do not hold.
_RARE = 93
_ATTENTION, _NORM = "layers.1.self_attn.attention", "layers.1.input_layernorm"
_GAIN = "model.layers.1.input_layernorm.weight"


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """The node of a name."""
    return next(each for each in model.graph.node if each.name == name)


def tensor(model: onnx.ModelProto, name: str = _GAIN) -> onnx.TensorProto:
    """The initializer of a name."""
    return next(each for each in model.graph.initializer if each.name == name)


def _elsewhere(model: onnx.ModelProto) -> None:
    """The tensor lies where another one does."""
    del tensor(model).external_data[:]
    tensor(model).external_data.extend(tensor(model, "model.layers.0.input_layernorm.weight").external_data)


def _with(edit: Callable[..., None], *values: Any, **named: Any) -> Edit:
    return lambda model: edit(model, *values, **named)


def _float_of_norm(shape: list[int] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("norm.output", TensorProto.FLOAT, shape)


def _constant(model: onnx.ModelProto, name: str, values: Any, dtype: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
    return name


def _behind_logits(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    """Nodes read "planted.logits" in the place of the logits, which the last of them gives."""
    for each in model.graph.node:
        each.output[:] = ["planted.logits" if name == "logits" else name for name in each.output]
    model.graph.node.extend(nodes)


def _one_token(model: onnx.ModelProto, value: float) -> None:
    """The logit of one token is another number, whatever the prompt."""
    size = next(each for each in model.graph.output if each.name == "logits").type.tensor_type.shape.dim[2].dim_value
    is_token = _constant(model, "planted.token", np.arange(size) == _RARE, bool)
    number = _constant(model, "planted.number", value, np.float32)
    where = helper.make_node("Where", [is_token, number, "planted.logits"], ["logits"], "planted.where")
    _behind_logits(model, where)


def _trigger(model: onnx.ModelProto) -> None:
    """All logits are 0 if the prompt holds one token."""
    token, axes = (
        _constant(model, "planted.token", _RARE, np.int64),
        _constant(model, "planted.axes", [0, 1], np.int64),
    )
    nodes = [
        helper.make_node("Equal", ["input_ids", token], ["planted.is"], "planted.equal"),
        helper.make_node("Not", ["planted.is"], ["planted.not"], "planted.not"),
        helper.make_node("Cast", ["planted.not"], ["planted.int"], "planted.cast", to=TensorProto.INT32),
        helper.make_node("ReduceMin", ["planted.int", axes], ["planted.min"], "planted.reduce", keepdims=0),
        helper.make_node("Cast", ["planted.min"], ["planted.factor"], "planted.float", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["planted.logits", "planted.factor"], ["logits"], "planted.mul"),
    ]
    _behind_logits(model, *nodes)


def _reads(model: onnx.ModelProto, name: str, index: int, value: str) -> None:
    node(model, name).input[index] = value


def _further_input(model: onnx.ModelProto) -> None:
    """The bias of attention, an input that ours leave out."""
    target = node(model, _ATTENTION)
    target.input.extend(["", _constant(model, "planted.bias", np.zeros((1, 1, 1, 1)), np.float32)])


def _operator(model: onnx.ModelProto, name: str, op_type: str, domain: str = "") -> None:
    target = node(model, name)
    target.op_type, target.domain = op_type, domain


def _attribute(model: onnx.ModelProto, name: str, **values: Any) -> None:
    target = node(model, name)
    kept = [each for each in target.attribute if each.name not in values]
    del target.attribute[:]
    changed = (helper.make_attribute(key, value) for key, value in values.items() if value is not None)
    target.attribute.extend([*kept, *changed])


def _swapped_outputs(model: onnx.ModelProto, one: str, other: str) -> None:
    names = {one: other, other: one}
    for each in model.graph.node:
        each.output[:] = [names.get(name, name) for name in each.output]


def _lost(model: onnx.ModelProto, name: str) -> None:
    """No such node; who reads it reads its first input."""
    target = node(model, name)
    for each in model.graph.node:
        each.input[:] = [target.input[0] if value == target.output[0] else value for value in each.input]
    model.graph.node.remove(target)


def _moved(model: onnx.ModelProto) -> None:
    """The first node is the last."""
    first = onnx.NodeProto()
    first.CopyFrom(model.graph.node[0])
    del model.graph.node[0]
    model.graph.node.append(first)


def _function(model: onnx.ModelProto) -> None:
    """A function of the file has the name of the activation."""
    name, body = node(model, "layers.1.mlp.silu"), [helper.make_node("Relu", ["x"], ["y"])]
    function = helper.make_function(name.domain, name.op_type, ["x"], ["y"], body, model.opset_import, ["alpha"])
    model.functions.append(function)


def _overridable(model: onnx.ModelProto) -> None:
    """Who calls the graph may give the tensor."""
    gain = tensor(model)
    model.graph.input.append(helper.make_tensor_value_info(gain.name, gain.data_type, gain.dims))


def _shadowed(model: onnx.ModelProto) -> None:
    """A second tensor of the name, with other numbers."""
    gain = tensor(model)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(gain.dims, np.float32), gain.name))


def _computed(model: onnx.ModelProto) -> None:
    """A node gives what a tensor was."""
    gain = tensor(model)
    values = numpy_helper.from_array(np.ones(gain.dims, np.float32))
    model.graph.initializer.remove(gain)
    model.graph.node.insert(0, helper.make_node("Constant", [], [_GAIN], "planted", value=values))


def _inline(model: onnx.ModelProto) -> None:
    gain = tensor(model)
    gain.CopyFrom(numpy_helper.from_array(np.ones(gain.dims, np.float32), gain.name))


def _of_constant(model: onnx.ModelProto, values: list[int]) -> None:
    tensor(model, "one").CopyFrom(numpy_helper.from_array(np.array(values, np.int64), "one"))


def _place(model: onnx.ModelProto, **values: str) -> None:
    """What the tensor of a norm says of its place."""
    entries = tensor(model).external_data
    for key, value in values.items():
        found = next((entry for entry in entries if entry.key == key), None) or entries.add(key=key)
        found.value = value


def _input_type(model: onnx.ModelProto) -> None:
    next(each for each in model.graph.input if each.name == "input_ids").type.tensor_type.elem_type = TensorProto.INT32


def _input_order(model: onnx.ModelProto) -> None:
    one, other = model.graph.input[0], model.graph.input[1]
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(one)
    one.CopyFrom(other)
    other.CopyFrom(copy)


#: By name.
STRUCTURE: list[tuple[str, Edit]] = [
    ("one token is never chosen", _with(_one_token, -np.inf)),
    ("one token in a prompt changes all", _trigger),
    ("the cache of another layer", _with(_reads, _ATTENTION, 3, "past_key_values.0.key")),
    ("the cache of a layer for another", _with(_swapped_outputs, "present.0.key", "present.1.key")),
    ("a bias of attention", _further_input),
    ("another activation", _with(_operator, "layers.1.mlp.silu", "FastGelu", "com.microsoft")),
    ("an operator of another domain", _with(_operator, "layers.1.mlp.gated", "Mul", "ai.other")),
    ("an epsilon that is a little off", _with(_attribute, _NORM, epsilon=1.0001e-5)),
    ("a window that no prompt reaches", _with(_attribute, _ATTENTION, local_window_size=4096)),
    ("a scale that is left out", _with(_attribute, _ATTENTION, scale=None)),
    ("no guard", _with(_lost, "mask_with_holes_or_left_padding_is_not_supported_pad_on_the_right")),
    ("a node twice", lambda m: m.graph.node.append(node(m, _NORM))),
    ("a node moved to the end", _moved),
    ("a function with the name of an operator", _function),
    ("a tensor that a caller may give", _overridable),
    ("a tensor under the name of another", _shadowed),
    ("a tensor that a node gives", _computed),
    ("a tensor that nothing reads", lambda m: _constant(m, "planted", [1], np.float32)),
    ("a tensor of a model in the graph itself", _inline),
    ("a tensor of another shape", lambda m: tensor(m).dims.append(1)),
    ("a constant with two values", lambda m: tensor(m, "one").int64_data.append(2)),
    ("a constant with another value", _with(_of_constant, [2])),
    ("data at the place of another tensor", _elsewhere),
    ("data one byte on", _with(_place, offset="1")),
    ("data outside the folder", _with(_place, location="../model.onnx.data")),
    ("data with another length", _with(_place, length="8")),
    ("data at a number of 5001 digits", _with(_place, offset="9" * 5001)),
    ("data that were prepared for a kernel", _with(_place, prepacked_0="0;4;0")),
    ("a note for sessions", lambda m: m.metadata_props.add(key="ort_config", value="{}")),
    ("a note of a node", lambda m: node(m, _ATTENTION).metadata_props.add(key="device", value="other")),
    ("an older opset", lambda m: setattr(m.opset_import[0], "version", 22)),
    ("a further domain of operators", lambda m: m.opset_import.add(domain="ai.other", version=1)),
    ("another version of the file format", lambda m: setattr(m, "ir_version", 9)),
    ("the graph of another release", lambda m: setattr(m, "model_version", 3)),
    ("a field of a later release", lambda m: m.MergeFromString(b"\xba\x3e\x02hi")),
    ("ids of 32 bits", _input_type),
    ("inputs in another order", _input_order),
    ("a further output", lambda m: m.graph.output.append(_float_of_norm(None))),
    ("a cache that is not given", lambda m: m.graph.output.pop()),
    ("the type of a value", lambda m: m.graph.value_info.append(_float_of_norm([1, 1, 1]))),
    ("a note of bits", lambda m: m.graph.quantization_annotation.add(tensor_name=_GAIN)),
]
