"""Graphs whose nodes are wired wrongly: caches, residuals, activations, whole layers, norms."""

from __future__ import annotations

import re

import numpy as np
from planted.fault import Fault, numeric
from planted.graphs.edits import scaled, swapped_inputs
from planted.graphs.graph import Edit, Graph


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


FAULTS: tuple[Fault, ...] = (
    numeric("weight", "norm off by 1 %, fp16", "half", scaled("model.layers.1.input_layernorm.weight"), 1),
    numeric(
        "wiring",
        "keys and values swapped on their way in, standard",
        "standard",
        swapped_inputs("past_key_values.2.key", "past_key_values.2.value"),
        layer=2,
    ),
    numeric("wiring", "cache of a layer not updated", "whole", _not_updated("present.1.key"), layer=1),
    numeric("wiring", "past of a layer forgotten, fp16", "half", _past_forgotten(2, "key"), layer=2),
    numeric("wiring", "residual dropped", "routed", _residual_dropped("layers.1.post_attention_layernorm"), layer=1),
    numeric("wiring", "two layers swapped, standard", "standard", _layers({0: 1, 1: 0}), layer=0),
)
