"""Heads in the wrong order, wrong rotations, scales, windows and masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from planted.fault import ANY, Fault, numeric
from planted.graphs.graph import Edit, Graph
from planted.graphs.weights import Array, change_weight

_FAR = np.iinfo(np.int64).max


def _zeroed_head(layer: int, head: int) -> Edit:
    def edit(graph: Graph) -> None:
        width = graph.spec.head_dim

        def zero(weight: Array) -> None:
            weight[:, head * width : (head + 1) * width] = 0

        change_weight(graph, layer, "o_proj", zero)

    return edit


def _caches(*, cos: Any = lambda cache: cache, sin: Any = lambda cache: cache) -> Edit:
    def edit(graph: Graph) -> None:
        graph["cos_cache"], graph["sin_cache"] = cos(graph["cos_cache"]), sin(graph["sin_cache"])

    return edit


def _shifted(cache: Array) -> Array:
    return np.concatenate([cache[1:], cache[-1:]])


def _all_attention(**values: Any) -> Edit:
    def edit(graph: Graph) -> None:
        for node in graph.nodes("GroupQueryAttention", "Attention"):
            graph.set(node, **values)

    return edit


def _window_constant(by: int) -> Edit:
    def edit(graph: Graph) -> None:
        graph["window_5"] = graph["window_5"] + by

    return edit


def _past_length(graph: Graph, before: Any) -> str:
    shape = graph.before(before, "Shape", ["past_key_values.0.key"], start=2, end=3)
    return graph.before(before, "Min", [shape, graph.constant([1])])


def _decode_one_further(graph: Graph) -> None:
    """In decode steps, tokens and caches are rotated from the second row of the tables on."""
    first = graph.nodes("GroupQueryAttention")[0]
    start, later = _past_length(graph, first), {}
    end, axis, last = (graph.constant([value]) for value in (_FAR, 0, -1))
    for name in ("cos_cache", "sin_cache"):
        rows = graph.before(first, "Slice", [name, start, end, axis])
        one_more = graph.before(first, "Slice", [name, last, end, axis])  # for the model's last position
        later[name] = graph.before(first, "Concat", [rows, one_more], axis=0)
    for node in graph.nodes("GroupQueryAttention"):
        node.input[:] = [later.get(name, name) for name in node.input]


def _position_ids_in_decode(graph: Graph) -> None:
    node = graph.node("position_ids")
    step, last = _past_length(graph, node), graph.constant([graph.spec.max_position_embeddings - 1])
    graph.behind("position_ids.output", ("Add", ["", step], {}), ("Min", ["", last], {}))


def _sees_the_future(graph: Graph) -> None:
    node = graph.node("keys.before")
    node.input[1] = node.input[0]


def _sees_padding(graph: Graph) -> None:
    """The standard dialect: every column of the mask counts as a real token."""
    node = graph.node("mask.real")
    node.input[0] = graph.before(node, "Equal", ["attention_mask", "attention_mask"])


def _holes_unguarded(graph: Graph) -> None:
    """As this was once: only the first column is looked at."""
    node = graph.node("mask.wanted")
    first = graph.before(node, "Gather", ["attention_mask", graph.constant(0)], axis=1)
    node.op_type, node.input[:] = "ReduceMin", [first]
    graph.set(node, keepdims=1)


FAULTS: tuple[Fault, ...] = (
    numeric("weight", "head zeroed, fp16", "half", _zeroed_head(2, 0), layer=2),
    # Rotations are relative: logits stay as they are, and only what the caches hold tells.
    numeric("constant", "both caches shifted by a position", "whole", _caches(cos=_shifted, sin=_shifted), layer=0),
    numeric("wiring", "positions one further in decode", "whole", _decode_one_further, layer=0),
    numeric("wiring", "position ids one further in decode", "standard", _position_ids_in_decode, layer=0),
    numeric("attribute", "window one wider", "window", _all_attention(local_window_size=6), layer=0),
    numeric("constant", "window one narrower, standard", "standard", _window_constant(-1), layer=0),
    numeric("wiring", "the future is seen", "standard", _sees_the_future, layer=0),
    numeric("wiring", "padding is seen", "standard", _sees_padding, layer=0),
    numeric("wiring", "holes in a mask are not refused, int4", "int4", _holes_unguarded, layer=ANY),
)
