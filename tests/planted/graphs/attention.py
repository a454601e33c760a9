"""Heads in the wrong order, wrong rotations, scales, windows and masks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from planted.fault import ANY, Fault, numeric
from planted.graphs.edits import ATTENTION, all_of, attributes
from planted.graphs.graph import Edit, Graph
from planted.graphs.weights import Array, change_weight, heads_of, with_weight
from support.product import Projection, rotary_tables

from converters.onnx.graph.dialects import MASK_GUARD
from seap_export.model.families import Attention

_FAR = np.iinfo(np.int64).max


def _heads(projection: Projection, layer: int, order: list[int]) -> Edit:
    """The heads of a projection's output in another order; heads that `order` does not name stay."""

    def edit(graph: Graph) -> None:
        def reorder(weight: Array) -> Array:
            parts = heads_of(weight, graph.spec.head_dim)
            return np.concatenate([*(parts[head] for head in order), *parts[len(order) :]])

        change_weight(graph, layer, projection, reorder)

    return edit


def _keys_and_values_swapped(layer: int) -> Edit:
    def edit(graph: Graph) -> None:
        for projection in ("k_proj", "v_proj"):
            _heads(projection, layer, [1, 0])(graph)  # type: ignore[arg-type]

    return edit


def _zeroed_head(layer: int, head: int) -> Edit:
    def edit(graph: Graph) -> None:
        width = graph.spec.head_dim

        def zero(weight: Array) -> None:
            weight[:, head * width : (head + 1) * width] = 0

        change_weight(graph, layer, "o_proj", zero)

    return edit


def _rotated_by(**changed: Any) -> Edit:
    """Caches of another theta, or of the plain rotation."""

    def edit(graph: Graph) -> None:
        spec = graph.spec
        rope = spec.first(Attention).rope
        assert rope is not None
        caches = rotary_tables(replace(rope, **changed), spec.max_position_embeddings)
        for name, cache in zip(("cos_cache", "sin_cache"), caches, strict=True):
            graph[name] = cache.numpy().astype(graph[name].dtype)

    return edit


def _caches(*, cos: Any = lambda cache: cache, sin: Any = lambda cache: cache) -> Edit:
    def edit(graph: Graph) -> None:
        graph["cos_cache"], graph["sin_cache"] = cos(graph["cos_cache"]), sin(graph["sin_cache"])

    return edit


def _shifted(cache: Array) -> Array:
    return np.concatenate([cache[1:], cache[-1:]])


def _swapped_caches(graph: Graph) -> None:
    graph.rename_inputs({"cos_cache": "sin_cache", "sin_cache": "cos_cache"})


def _all_attention(**values: Any) -> Edit:
    def edit(graph: Graph) -> None:
        for node in graph.nodes("GroupQueryAttention", "Attention"):
            graph.set(node, **values)

    return edit


def _scaled(layer: int, factor: float) -> Edit:
    def edit(graph: Graph) -> None:
        node = graph.node(ATTENTION.format(layer))
        graph.set(node, scale=graph.attribute(node, "scale").f * factor)

    return edit


def _interleaved(graph: Graph) -> None:
    for node in graph.nodes("RotaryEmbedding"):
        graph.set(node, interleaved=1)


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


def _counts_padding(graph: Graph) -> None:
    """The fused dialect: every row is as long as the batch is wide, which its guard takes for a hole."""
    node = graph.node("mask.count")
    equal = graph.before(node, "Equal", ["attention_mask", "attention_mask"])
    node.input[0] = graph.before(node, "Cast", [equal], to=7)


def _unguarded(graph: Graph) -> None:
    """A batch with padding before its tokens gets numbers instead of an error."""
    graph.rename_inputs({f"{MASK_GUARD}.output": "one"})
    graph.proto.graph.node.remove(graph.node(MASK_GUARD))


def _holes_unguarded(graph: Graph) -> None:
    """As this was once: only the first column is looked at."""
    node = graph.node("mask.wanted")
    first = graph.before(node, "Gather", ["attention_mask", graph.constant(0)], axis=1)
    node.op_type, node.input[:] = "ReduceMin", [first]
    graph.set(node, keepdims=1)


FAULTS: tuple[Fault, ...] = (
    numeric("head zeroed", "whole", _zeroed_head(1, 2), layer=1),
    numeric("head zeroed, qwen3", "qwen3", _zeroed_head(2, 0), layer=2),
    numeric("head zeroed, fp16", "half", _zeroed_head(2, 0), layer=2),
    numeric("two heads of q swapped", "whole", _heads("q_proj", 1, [1, 0]), layer=1),
    numeric("two heads of q swapped, standard", "standard", _heads("q_proj", 2, [1, 0]), layer=2),
    numeric("heads of q in the order of another grouping", "whole", _heads("q_proj", 0, [0, 2, 4, 1, 3, 5]), layer=0),
    numeric("KV heads swapped", "whole", _keys_and_values_swapped(2), layer=2),
    numeric("KV heads swapped in k alone", "whole", _heads("k_proj", 1, [1, 0]), layer=1),
    numeric("KV heads rotated in v alone", "standard", _heads("v_proj", 1, [1, 0]), layer=1),
    numeric(
        "halves of a rotated head swapped",
        "whole",
        with_weight(1, "k_proj", lambda weight: np.roll(weight, 8, axis=0)),
        layer=1,
    ),
    numeric("rope theta", "routed", _rotated_by(theta=9000.0), layer=0),
    numeric("rope theta, standard", "standard", _rotated_by(theta=11000.0), layer=0),
    numeric("rope scaling forgotten", "whole", _rotated_by(rope_type="default", parameters={}), layer=0),
    numeric("rope caches swapped", "whole", _swapped_caches, layer=0),
    numeric("sine negated", "qwen3", _caches(sin=np.negative), layer=0),
    numeric("cosines shifted by a position", "tied", _caches(cos=_shifted), layer=0),
    # Rotations are relative: logits stay as they are, and only what the caches hold tells.
    numeric("both caches shifted by a position", "whole", _caches(cos=_shifted, sin=_shifted), layer=0),
    numeric("rotation interleaved", "routed", _all_attention(rotary_interleaved=1), layer=0),
    numeric("rotation interleaved, standard", "standard", _interleaved, layer=0),
    numeric("positions one further in decode", "whole", _decode_one_further, layer=0),
    numeric("position ids one further in decode", "standard", _position_ids_in_decode, layer=0),
    numeric("attention scale", "whole", _scaled(1, 1.02), layer=1),
    numeric("attention scale, standard", "standard", _scaled(2, 0.98), layer=2),
    numeric("logits of attention capped", "whole", attributes(ATTENTION.format(1), softcap=5.0), layer=1),
    numeric("softmax with one more in its sum", "routed", attributes(ATTENTION.format(2), smooth_softmax=1), layer=2),
    numeric("window one wider", "window", _all_attention(local_window_size=6), layer=0),
    numeric("window one narrower, standard", "standard", _window_constant(-1), layer=0),
    numeric("window one wider, standard", "standard", _window_constant(1), layer=0),
    numeric(
        "no window",
        "points",
        all_of(*(attributes(ATTENTION.format(layer), local_window_size=-1) for layer in (1, 2))),
        layer=1,
    ),
    numeric("a window where there is none", "whole", attributes(ATTENTION.format(2), local_window_size=8), layer=2),
    numeric("the future is seen", "standard", _sees_the_future, layer=0),
    numeric("padding is seen", "standard", _sees_padding, layer=0),
    numeric("padding is counted", "whole", _counts_padding, layer=ANY),
    numeric("padding on the left is not refused", "whole", _unguarded, layer=ANY),
    numeric("holes in a mask are not refused", "whole", _holes_unguarded, layer=ANY),
    numeric("holes in a mask are not refused, int4", "int4", _holes_unguarded, layer=ANY),
)
