"""The models that are embedded as bytes are the ones that they are said to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from seap_export.runtime.doctor.models import TRIALS


def half(name: str, *shape: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape)


def built(
    node: onnx.NodeProto, inputs: Sequence[Any], outputs: Sequence[Any], constants: Sequence[Any] = ()
) -> onnx.ModelProto:
    graph = helper.make_graph([node], "g", inputs, outputs, constants)
    domains = [("", 21), (node.domain, 1)] if node.domain else [("", 21)]
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*domain) for domain in domains], ir_version=10)


def product() -> onnx.ModelProto:
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    return built(node, [half("a", 4, 8), half("b", 8, 4)], [half("y", 4, 4)])


def attention() -> onnx.ModelProto:
    node = helper.make_node(
        "GroupQueryAttention",
        ["q", "k", "v", "past_k", "past_v", "last", "total"],
        ["y", "all_k", "all_v"],
        domain="com.microsoft",
        num_heads=2,
        kv_num_heads=1,
    )
    inputs = [half("q", 1, 4, 128), half("k", 1, 4, 64), half("v", 1, 4, 64)]
    inputs += [half(name, 1, 1, "past", 64) for name in ("past_k", "past_v")]
    outputs = [half("y", 1, 4, 128), *(half(name, 1, 1, "all", 64) for name in ("all_k", "all_v"))]
    constants = [
        helper.make_tensor(name, TensorProto.INT32, [1], [value]) for name, value in (("last", 3), ("total", 4))
    ]
    return built(node, inputs, outputs, constants)


@pytest.mark.parametrize(("name", "model"), [("session", product()), ("attention", attention())])
def test_the_bytes_are_those_of_the_model(name: str, model: onnx.ModelProto) -> None:
    assert TRIALS[name].model == model.SerializeToString()
    assert TRIALS[name].node == model.graph.node[0].op_type


def test_attention_is_causal_and_each_row_is_a_mean_of_values() -> None:
    """The first token sees itself alone."""
    trial = TRIALS["attention"]
    value, means = trial.feeds()["v"][0], trial.expected()[0]
    assert means[0].tolist() == pytest.approx([*value[0], *value[0]])
    assert (abs(means) <= 1).all()
    assert abs(means[1:]).max() > 0.1
