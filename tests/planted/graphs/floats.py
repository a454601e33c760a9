"""Wrong numbers, wiring, attributes and constants in float graphs, which results must show."""

from __future__ import annotations

from typing import Any

import numpy as np
from planted.fault import ANY, Fault, numeric, quiet
from planted.graphs.graph import (
    ATTENTION,
    Array,
    Graph,
    at,
    attributes,
    constant,
    edited,
    projection,
    scaled,
    weight,
    zeroed_input,
)

_WEIGHT, _FURTHEST = "weight.transposed", np.iinfo(np.int64).max
_EMBEDDING, _TABLES = "model.embed_tokens.weight", ("cos_cache", "sin_cache")
#: An id without a word.
_RARE = 93
_LAYER = "model.layers.1."


def _largest_negated(values: Array) -> Array:
    return at(np.unravel_index(np.abs(values).argmax(), values.shape), np.negative)(values)


def _all_in_half(graph: Graph) -> None:
    """fp32 weights that went through fp16 on their way."""
    for name in graph.names(suffix=f"_proj.{_WEIGHT}"):
        graph[name] = graph[name].astype(np.float16).astype(np.float32)


def _logits_backwards(graph: Graph) -> None:
    """The rows of the batch in the opposite order."""
    backwards = ([-1], [np.iinfo(np.int64).min], [0], [-1])
    graph.behind("logits", ("Slice", ["", *map(graph.constant, backwards)], {}))


def _last_column(graph: Graph) -> None:
    """The last place of the call instead of each row's last token: the same for a prompt alone."""
    node = graph.node("last_token.place")
    batch = graph.before(node, "Sub", ["mask.last.output", "mask.last.output"])
    node.op_type, node.input[:] = "Add", ["last_token.end.output", batch]


def _past_length(graph: Graph, before: Any) -> str:
    shape = graph.before(before, "Shape", ["past_key_values.0.key"], start=2, end=3)
    return graph.before(before, "Min", [shape, graph.constant([1])])


def _one_further_in_decode(graph: Graph) -> None:
    node = graph.node("position_ids")
    step, last = _past_length(graph, node), graph.constant([graph.spec.max_position_embeddings - 1])
    graph.behind("position_ids.output", ("Add", ["", step], {}), ("Min", ["", last], {}))


def _not_updated(graph: Graph) -> None:
    """The keys of the tokens before, and nothing for the new ones."""
    name, past = "present.1.key", "past_key_values.1.key"
    node = next(node for node in graph.proto.graph.node if name in node.output)
    length = graph.before(node, "Shape", [past], start=2, end=3)
    new = ("Slice", ["", length, graph.constant([_FURTHEST]), graph.constant([2])], {})
    graph.behind(name, new, ("Sub", ["", ""], {}), ("Concat", [past, ""], {"axis": 2}))


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


def _rows_moved(graph: Graph) -> None:
    """Both tables by a position."""
    for name in _TABLES:
        graph[name] = np.concatenate([graph[name][1:], graph[name][-1:]])


def _one_wider(graph: Graph) -> None:
    """Of all layers."""
    for node in graph.nodes("GroupQueryAttention"):
        graph.set(node, local_window_size=6)


_FIRST = ATTENTION.format(1)
_SIGN = projection(2, "down_proj", _WEIGHT, _largest_negated, last=True)
_SCALES = attributes(*(ATTENTION.format(layer) for layer in range(3)), scale=0.25)
_ROUTER = weight(f"{_LAYER}mlp.gate.{_WEIGHT}", at(np.s_[:, :2], lambda experts: experts[:, ::-1].copy()))
_CLAMP = attributes("layers.1.experts.experts_down_proj", swiglu_limit=1e4)

FAULTS: tuple[Fault, ...] = (
    numeric("weight", "sign in down_proj, standard", "standard", _SIGN, 2),
    numeric("weight", "bias of q dropped", "routed", projection(1, "q_proj", "bias", np.zeros_like), 1),
    numeric("weight", "norm off by 1 %, fp16", "half", scaled("model.layers.1.input_layernorm.weight"), 1),
    numeric("weight", "two rows of a router swapped", "experts", _ROUTER, 1),
    numeric("weight", "a rare token off by 2 %", "whole", weight(_EMBEDDING, at(_RARE, lambda row: row * 1.02)), None),
    quiet(
        "weight",
        "NaN in a rare token, fp16",
        "half",
        edited(weight(_EMBEDDING, at((_RARE, 7), lambda number: number * np.nan))),
        codes=(3, 7),
    ),
    numeric("bits", "all weights in fp16", "whole", _all_in_half, 0),
    # Rotations are relative: logits stay as they are, and only what the caches hold tells.
    numeric("constant", "both tables shifted by a position", "whole", _rows_moved, 0),
    numeric("constant", "window one narrower, standard", "standard", weight("window_5", lambda width: width - 1), 0),
    numeric("constant", "soft cap of logits off by 1 %", "gemma3", scaled("float_8.0"), None),
    # as ONNX Runtime's Attention had it up to 1.24
    numeric("constant", "hidden keys are capped too", "gemma2 standard", constant(f"{_FIRST}.scores", 2, -2.0), 1),
    numeric("constant", "switch one token later", "phi3", constant("rows_0.is_long", 1, [17]), 0),
    numeric("attribute", "window one wider, int8", "window", _one_wider, 0),
    numeric("attribute", "scale of the head size", "gemma3", _SCALES, 0),
    numeric("attribute", "gates not clamped", "experts", _CLAMP, 1),
    numeric("wiring", "rows of a batch give each other's logits", "whole", _logits_backwards, None),
    numeric("wiring", "last column in the place of the last token, int8", "window", _last_column, None),
    numeric("wiring", "cache of a layer not updated", "whole", _not_updated, 1),
    numeric("wiring", "past of a layer forgotten, fp16", "half", zeroed_input(ATTENTION.format(2), 4), 2),
    numeric("wiring", "position ids one further in decode", "standard", _one_further_in_decode, 0),
    numeric("wiring", "padding is seen", "standard", _sees_padding, 0),
    numeric("wiring", "holes in a mask are not refused, int4", "int4", _holes_unguarded, ANY),
)
