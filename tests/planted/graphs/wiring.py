"""Graphs whose nodes are wired wrongly: caches, residuals, activations, whole layers, norms."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from planted.fault import Fault, numeric, structural
from planted.graphs.edits import attributes, replaced, scaled, swapped_inputs
from planted.graphs.graph import Edit, Graph


def _swap_outputs(one: str, other: str) -> Edit:
    return lambda graph: graph.rename_outputs({one: other, other: one})


def _not_updated(name: str) -> Edit:
    """The cache of the tokens before, and nothing for the new ones."""

    def edit(graph: Graph) -> None:
        past = name.replace("present", "past_key_values")
        node = next(node for node in graph.proto.graph.node if name in node.output)
        length = graph.before(node, "Shape", [past], start=2, end=3)
        end, axis = graph.constant([np.iinfo(np.int64).max]), graph.constant([2])
        graph.behind(
            name, ("Slice", ["", length, end, axis], {}), ("Sub", ["", ""], {}), ("Concat", [past, ""], {"axis": 2})
        )

    return edit


def _past_forgotten(layer: int, part: str) -> Edit:
    """What a layer has in its cache is zero."""

    def edit(graph: Graph) -> None:
        node, past = graph.node(f"layers.{layer}.self_attn.attention"), f"past_key_values.{layer}.{part}"
        empty = graph.before(node, "Sub", [past, past])
        node.input[list(node.input).index(past)] = empty

    return edit


def _layers(order: dict[int, int]) -> Edit:
    """Layers read the weights of others."""

    def edit(graph: Graph) -> None:
        names = [tensor.name for tensor in graph.proto.graph.initializer]
        moved = {}
        for name in names:
            match = re.match(r"model\.layers\.(\d+)\.", name)
            if match and int(match[1]) in order:
                moved[name] = f"model.layers.{order[int(match[1])]}.{name[match.end() :]}"
        graph.rename_inputs(moved)

    return edit


def _residual_dropped(norm: str) -> Edit:
    """The fused sum and norm gets zeros in the place of the stream."""

    def edit(graph: Graph) -> None:
        node = graph.node(norm)
        node.input[1] = graph.before(node, "Sub", [node.input[1], node.input[1]])

    return edit


def _residual_dropped_in_standard(graph: Graph) -> None:
    node = graph.node("layers.1.post_attention_layernorm.residual")
    node.op_type, node.input[:] = "Identity", [node.input[1]]


def _layer_skipped(graph: Graph) -> None:
    """Layer 1 is computed and not used."""
    before, after = (f"layers.{layer}.input_layernorm.residual" for layer in (1, 2))
    norm = graph.node("layers.2.input_layernorm")
    zero = graph.before(norm, "Sub", [norm.input[0], norm.input[0]])
    norm.input[0], norm.input[1] = zero, before
    assert after in norm.output


def _mlp_reads_the_stream(graph: Graph) -> None:
    """Behind attention the norm is left out."""
    graph.rename_inputs({"layers.1.post_attention_layernorm.output": "layers.1.post_attention_layernorm.residual"})


def _gelu(graph: Graph) -> None:
    graph.set(graph.node("layers.1.mlp.silu"), alpha=1.702)


def _relu(graph: Graph) -> None:
    node = graph.node("layers.2.mlp.silu")
    node.op_type, node.domain = "Relu", ""
    del node.attribute[:]


def _hard_sigmoid(graph: Graph) -> None:
    graph.node("layers.0.mlp.silu.sigmoid").op_type = "HardSigmoid"


def _norms() -> Iterator[Fault]:
    layer = "model.layers.{}."
    gains: list[tuple[str, str, int | None]] = [
        ("whole", layer.format(0) + "input_layernorm.weight", 0),
        ("whole", layer.format(1) + "input_layernorm.weight", 1),
        ("routed", layer.format(2) + "post_attention_layernorm.weight", 2),
        ("standard", layer.format(1) + "post_attention_layernorm.weight", 1),
        ("qwen3", layer.format(1) + "self_attn.q_norm.weight", 1),
        ("qwen3", layer.format(2) + "self_attn.k_norm.weight", 2),
        ("tied", "model.norm.weight", None),
        ("int4", layer.format(1) + "input_layernorm.weight", 1),
        ("window", "model.norm.weight", None),
    ]
    for base, name, expected in gains:
        short = name.removeprefix("model.").removesuffix(".weight")
        yield numeric(f"norm off by 1 %: {short}, {base}", base, scaled(name), layer=expected)
    yield numeric("norm off by 20 %, fp16", "half", scaled(layer.format(1) + "input_layernorm.weight", 1.2), 1)
    yield numeric("norm off by 1 %, fp16", "half", scaled(layer.format(1) + "input_layernorm.weight"), 1)
    yield numeric(
        "norm of another layer",
        "qwen3",
        replaced(layer.format(1) + "input_layernorm.weight", layer.format(2) + "input_layernorm.weight"),
        layer=1,
    )
    yield numeric(
        "norms of queries and keys swapped",
        "qwen3",
        swapped_inputs(layer.format(0) + "self_attn.q_norm.weight", layer.format(0) + "self_attn.k_norm.weight"),
        layer=0,
    )


FAULTS: tuple[Fault, ...] = (
    *_norms(),
    numeric("epsilon of a norm", "routed", attributes("layers.1.post_attention_layernorm", epsilon=0.1), layer=1),
    structural(
        "epsilon of a norm of large values",
        "routed",
        attributes("layers.1.post_attention_layernorm", epsilon=1e-3),
    ),
    numeric(
        "epsilon of the first norm, standard",
        "standard",
        attributes("layers.0.input_layernorm", epsilon=1e-3),
        layer=0,
    ),
    numeric(
        "caches of two layers swapped on their way out",
        "whole",
        _swap_outputs("present.0.value", "present.2.value"),
        layer=0,
    ),
    numeric(
        "caches of two layers swapped on their way in",
        "whole",
        swapped_inputs("past_key_values.1.key", "past_key_values.2.key"),
        layer=1,
    ),
    numeric("keys and values swapped in the cache", "routed", _swap_outputs("present.1.key", "present.1.value"), 1),
    numeric(
        "keys and values swapped on their way in, standard",
        "standard",
        swapped_inputs("past_key_values.2.key", "past_key_values.2.value"),
        layer=2,
    ),
    numeric("cache of a layer not updated", "whole", _not_updated("present.1.key"), layer=1),
    numeric("cache of a layer not updated, standard", "standard", _not_updated("present.2.value"), layer=2),
    numeric("past of a layer forgotten", "tied", _past_forgotten(1, "value"), layer=1),
    numeric("past of a layer forgotten, fp16", "half", _past_forgotten(2, "key"), layer=2),
    numeric("silu replaced by gelu", "whole", _gelu, layer=1),
    numeric("silu replaced by relu", "qwen3", _relu, layer=2),
    numeric("sigmoid made of lines, standard", "standard", _hard_sigmoid, layer=0),
    numeric("residual dropped", "routed", _residual_dropped("layers.1.post_attention_layernorm"), layer=1),
    numeric("last residual dropped", "tied", _residual_dropped("norm"), layer=2),
    numeric("residual dropped, standard", "standard", _residual_dropped_in_standard, layer=1),
    numeric("norm before an MLP left out", "qwen3", _mlp_reads_the_stream, layer=1),
    numeric("layer skipped", "whole", _layer_skipped, layer=1),
    numeric("two layers swapped", "whole", _layers({1: 2, 2: 1}), layer=1),
    numeric("two layers swapped, standard", "standard", _layers({0: 1, 1: 0}), layer=0),
    numeric("layer repeated", "whole", _layers({2: 1}), layer=2),
)
