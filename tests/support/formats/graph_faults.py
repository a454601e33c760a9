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


def _constant(model: onnx.ModelProto, name: str, values: Any, dtype: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
    return name


def _behind_logits(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    """Nodes read "planted.logits" in the place of the logits, which the last of them gives."""
    for each in model.graph.node:
        each.output[:] = ["planted.logits" if name == "logits" else name for name in each.output]
    model.graph.node.extend(nodes)


def _one_token(value: float) -> Edit:
    """The logit of one token is another number, whatever the prompt."""

    def edit(model: onnx.ModelProto) -> None:
        size = (
            next(each for each in model.graph.output if each.name == "logits").type.tensor_type.shape.dim[2].dim_value
        )
        is_token = _constant(model, "planted.token", np.arange(size) == _RARE, bool)
        number = _constant(model, "planted.number", value, np.float32)
        where = helper.make_node("Where", [is_token, number, "planted.logits"], ["logits"], "planted.where")
        _behind_logits(model, where)

    return edit


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


def _reads(name: str, index: int, value: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        node(model, name).input[index] = value

    return edit


def _further_input(model: onnx.ModelProto) -> None:
    """The bias of attention, an input that ours leave out."""
    target = node(model, _ATTENTION)
    target.input.extend(["", _constant(model, "planted.bias", np.zeros((1, 1, 1, 1)), np.float32)])


def _operator(name: str, op_type: str, domain: str = "") -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        target = node(model, name)
        target.op_type, target.domain = op_type, domain

    return edit


def _attribute(name: str, **values: Any) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        target = node(model, name)
        kept = [each for each in target.attribute if each.name not in values]
        del target.attribute[:]
        target.attribute.extend([*kept, *(helper.make_attribute(*item) for item in values.items())])

    return edit


def _without_attribute(name: str, key: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        target = node(model, name)
        target.attribute.remove(next(each for each in target.attribute if each.name == key))

    return edit


def _swapped_outputs(one: str, other: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        names = {one: other, other: one}
        for each in model.graph.node:
            each.output[:] = [names.get(name, name) for name in each.output]

    return edit


def _lost(name: str) -> Edit:
    """No such node; who reads it reads its first input."""

    def edit(model: onnx.ModelProto) -> None:
        target = node(model, name)
        for each in model.graph.node:
            each.input[:] = [target.input[0] if value == target.output[0] else value for value in each.input]
        model.graph.node.remove(target)

    return edit


def _twice(model: onnx.ModelProto) -> None:
    model.graph.node.append(node(model, _NORM))


def _moved(model: onnx.ModelProto) -> None:
    """The first node is the last."""
    first = onnx.NodeProto()
    first.CopyFrom(model.graph.node[0])
    del model.graph.node[0]
    model.graph.node.append(first)


def _branch(model: onnx.ModelProto) -> None:
    """A norm is in a branch, whose other one gives something else."""
    target = onnx.NodeProto()
    target.CopyFrom(node(model, "norm"))
    condition = _constant(model, "planted.condition", True, bool)
    outputs = [helper.make_tensor_value_info(target.output[0], TensorProto.FLOAT, None)]
    other = helper.make_node("Identity", [target.input[1]], [target.output[0]], "planted.other")
    branches = {
        "then_branch": helper.make_graph([target], "planted.then", [], outputs),
        "else_branch": helper.make_graph([other], "planted.else", [], outputs),
    }
    index = list(model.graph.node).index(node(model, "norm"))
    del model.graph.node[index]
    model.graph.node.insert(index, helper.make_node("If", [condition], [target.output[0]], "norm", **branches))


def _function(model: onnx.ModelProto) -> None:
    """A function of the file has the name of the activation."""
    silu = node(model, "layers.1.mlp.silu")
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(
        helper.make_function(silu.domain, silu.op_type, ["x"], ["y"], body, model.opset_import, ["alpha"])
    )


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


def _other_shape(model: onnx.ModelProto) -> None:
    gain = tensor(model)
    gain.dims[:] = [2, gain.dims[0] // 2]


def _two_values(model: onnx.ModelProto) -> None:
    """The same constant twice, as bytes and as numbers."""
    tensor(model, "one").int64_data.append(2)


def _of_constant(values: list[int]) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        tensor(model, "one").CopyFrom(numpy_helper.from_array(np.array(values, np.int64), "one"))

    return edit


def _place(**values: str) -> Edit:
    """What the tensor of a norm says of its place."""

    def edit(model: onnx.ModelProto) -> None:
        entries = tensor(model).external_data
        for key, value in values.items():
            found = next((entry for entry in entries if entry.key == key), None) or entries.add(key=key)
            found.value = value

    return edit


def _place_of(name: str) -> Edit:
    """The tensor lies where another one does."""

    def edit(model: onnx.ModelProto) -> None:
        del tensor(model).external_data[:]
        tensor(model).external_data.extend(tensor(model, name).external_data)

    return edit


def _a_byte_on(model: onnx.ModelProto) -> None:
    entry = next(entry for entry in tensor(model).external_data if entry.key == "offset")
    entry.value = str(int(entry.value) + 1)


def _note(key: str, value: str) -> Edit:
    return lambda model: model.metadata_props.add(key=key, value=value)


def _note_of_a_node(model: onnx.ModelProto) -> None:
    node(model, _ATTENTION).metadata_props.add(key="device", value="other")


def _opset(domain: str, version: int) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        for each in model.opset_import:
            if each.domain == domain:
                each.version = version

    return edit


def _field(name: str, value: Any) -> Edit:
    return lambda model: setattr(model, name, value)


def _unknown_field(model: onnx.ModelProto) -> None:
    """Number 999, which this release of onnx does not know."""
    model.MergeFromString(b"\xba\x3e\x02hi")


def _input_type(model: onnx.ModelProto) -> None:
    next(each for each in model.graph.input if each.name == "input_ids").type.tensor_type.elem_type = TensorProto.INT32


def _fixed_batch(model: onnx.ModelProto) -> None:
    next(each for each in model.graph.input if each.name == "input_ids").type.tensor_type.shape.dim[0].dim_value = 1


def _input_order(model: onnx.ModelProto) -> None:
    one, other = model.graph.input[0], model.graph.input[1]
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(one)
    one.CopyFrom(other)
    other.CopyFrom(copy)


def _extra_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("norm.output", TensorProto.FLOAT, None))


def _output_lost(model: onnx.ModelProto) -> None:
    del model.graph.output[-1]


def _stated_type(model: onnx.ModelProto) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("norm.output", TensorProto.FLOAT, [1, 1, 1]))


def _quantised(model: onnx.ModelProto) -> None:
    model.graph.quantization_annotation.add(tensor_name=_GAIN)


#: Name, edit, and a word of what is said.
STRUCTURE: list[tuple[str, Edit, str]] = [
    ("one token is never chosen", _one_token(-np.inf), "'lm_head' gives"),
    ("one token in a prompt changes all", _trigger, "planted.equal"),
    ("gate for up", _reads("layers.2.mlp.gated", 1, "layers.2.mlp.silu.output"), "layers.2.mlp.gated"),
    ("the cache of another layer", _reads(_ATTENTION, 3, "past_key_values.0.key"), "past_key_values.0.key"),
    ("the cache of a layer for another", _swapped_outputs("present.0.key", "present.1.key"), "present"),
    ("a bias of attention", _further_input, _ATTENTION),
    ("another activation", _operator("layers.1.mlp.silu", "FastGelu", "com.microsoft"), "layers.1.mlp.silu"),
    ("an operator of another domain", _operator("layers.1.mlp.gated", "Mul", "ai.other"), "ai.other:Mul"),
    ("an epsilon that is a little off", _attribute(_NORM, epsilon=1.0001e-5), "epsilon"),
    ("a window that no prompt reaches", _attribute(_ATTENTION, local_window_size=4096), "local_window_size"),
    ("a scale that is left out", _without_attribute(_ATTENTION, "scale"), "scale"),
    ("no guard", _lost("mask_with_holes_or_left_padding_is_not_supported_pad_on_the_right"), "missing"),
    ("a node twice", _twice, "twice"),
    ("a node moved to the end", _moved, "another place"),
    ("a node in a branch", _branch, "norm"),
    ("a function with the name of an operator", _function, "functions"),
    ("a tensor that a caller may give", _overridable, "input 'model.layers.1"),
    ("a tensor under the name of another", _shadowed, "2 times"),
    ("a tensor that a node gives", _computed, "not stored"),
    ("a tensor that nothing reads", lambda m: _constant(m, "planted", [1], np.float32), "'planted' is not in"),
    ("a tensor of a model in the graph itself", _inline, "in the graph itself"),
    ("a tensor of another shape", _other_shape, "another shape"),
    ("a constant with two values", _two_values, "'one'"),
    ("a constant with another value", _of_constant([2]), "'one'"),
    ("a constant that is too long", _of_constant([1, 1]), "'one'"),
    ("data at the place of another tensor", _place_of("model.layers.0.input_layernorm.weight"), "shares bytes"),
    ("data one byte on", _a_byte_on, "bytes"),
    ("data outside the folder", _place(location="../model.onnx.data"), "../model.onnx.data"),
    ("data with another length", _place(length="8"), "8 bytes"),
    ("data at no number", _place(offset="-4"), "place"),
    ("data at a number of 5001 digits", _place(offset="9" * 5001), "place"),
    ("data that were prepared for a kernel", _place(prepacked_0="0;4;0"), "place"),
    ("a note that sets options of sessions", _note("ort_config", "{}"), "metadata_props"),
    ("a note of a node", _note_of_a_node, _ATTENTION),
    ("an older opset", _opset("", 22), "opset_import"),
    ("another version of the operators", _opset("com.microsoft", 2), "opset_import"),
    ("a further domain of operators", lambda m: m.opset_import.add(domain="ai.other", version=1), "opset_import"),
    ("another version of the file format", _field("ir_version", 9), "ir_version"),
    ("the graph of another release", _field("model_version", 3), "another release"),
    ("a field of a later release", _unknown_field, "unknown"),
    ("ids of 32 bits", _input_type, "input_ids"),
    ("a single row", _fixed_batch, "input_ids"),
    ("inputs in another order", _input_order, "inputs"),
    ("a further output", _extra_output, "norm.output"),
    ("a cache that is not given", _output_lost, "present.2.value"),
    ("a type that is stated of a value", _stated_type, "norm.output"),
    ("a note of quantisation", _quantised, "quantization_annotation"),
]
