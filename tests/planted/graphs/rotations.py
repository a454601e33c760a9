"""Layers with the rotation or the window of others, parts of heads, two tables, and queries scaled by position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from planted.fault import Fault, numeric
from planted.graphs.edits import ATTENTION, all_of, attributes, constant, reads, scaled, swapped_inputs
from planted.graphs.graph import Edit, Graph
from support.product import attention_factor, rotary_tables

from seap_export.model.families import Attention, RopeSpec

_TABLES = ("cos_cache", "sin_cache")


def _rope(graph: Graph, layer: int) -> RopeSpec:
    rope = graph.spec.layers[layer][Attention].rope
    assert rope is not None
    return rope


def _tables(suffix: str, layer: int, **changed: Any) -> Edit:
    """The tables of a rotation that differs from a layer's."""

    def edit(graph: Graph) -> None:
        tables = rotary_tables(replace(_rope(graph, layer), **changed), graph.spec.max_position_embeddings)
        for name, table in zip(_TABLES, tables, strict=True):
            graph[name + suffix] = table.numpy()

    return edit


def _both_tables(first: bool, second: bool) -> Edit:
    """Longrope with the factors of short or of long inputs in each of its two tables."""

    def edit(graph: Graph) -> None:
        rope, positions = _rope(graph, 0), graph.spec.max_position_embeddings
        parts = rotary_tables(rope, rope.switches_at or 0, long=first), rotary_tables(rope, positions, long=second)
        for side, name in enumerate(_TABLES):
            graph[name] = torch.cat([part[side] for part in parts]).numpy()

    return edit


def _unscaled(graph: Graph) -> None:
    """The factor on cosines and sines is lost."""
    for name in _TABLES:
        scaled(name, 1 / attention_factor(_rope(graph, 0)))(graph)


def _rotations(graph: Graph, layer: int) -> Iterator[Any]:
    return (node for node in graph.nodes("RotaryEmbedding") if node.name.startswith(f"layers.{layer}."))


def _rotates(*layers: int, **values: int) -> Edit:
    """Rotations of some layers have other attributes."""

    def edit(graph: Graph) -> None:
        for layer in layers:
            for node in _rotations(graph, layer):
                graph.set(node, **values)

    return edit


def _part(layer: int, channels: int) -> Edit:
    """Fewer channels rotate, or more with the angles of their number."""

    def edit(graph: Graph) -> None:
        rope, positions = _rope(graph, layer), graph.spec.max_position_embeddings
        if channels < rope.dim:
            numbers = [graph[name][:, : channels // 2] for name in _TABLES]
        else:
            numbers = [table.numpy() for table in rotary_tables(replace(rope, dim=channels), positions)]
        tables = [graph.constant(table, np.float32) for table in numbers]
        for node in _rotations(graph, layer):
            node.input[2:4] = tables
            graph.set(node, rotary_embedding_dim=channels)

    return edit


def _last_channels(graph: Graph) -> None:
    """The last channels of heads rotate and not the first."""
    for node in _rotations(graph, 1):
        width = graph.spec.head_dim * graph.attribute(node, "num_heads").i
        order = np.arange(width).reshape(-1, graph.spec.head_dim)
        turned = graph.constant(np.roll(order, -graph.spec.head_dim // 2, axis=1).ravel())
        node.input[0] = graph.before(node, "Gather", [node.input[0], turned], axis=2)
        graph.behind(node.output[0], ("Gather", ["", turned], {"axis": 2}))


def _not_rotated(layer: int) -> Edit:
    """The standard dialect: queries and keys go past their rotation."""

    def edit(graph: Graph) -> None:
        for node in _rotations(graph, layer):
            graph.rename_inputs({node.output[0]: node.input[0]})

    return edit


def _rotated(layer: int) -> Edit:
    """The standard dialect: queries and keys of a layer rotate that must not."""

    def edit(graph: Graph) -> None:
        kind, attention = graph.spec.layers[layer][Attention], graph.node(ATTENTION.format(layer))
        for index, heads in enumerate((kind.num_attention_heads, kind.num_key_value_heads)):
            inputs = [attention.input[index], *_TABLES, "position_ids.output"]
            attention.input[index] = graph.before(attention, "RotaryEmbedding", inputs, num_heads=heads)

    return edit


def _rotates_in_attention(layer: int, is_rotated: bool) -> Edit:
    """The fused dialect: attention rotates, or does not."""

    def edit(graph: Graph) -> None:
        node = graph.node(ATTENTION.format(layer))
        graph.set(node, do_rotary=int(is_rotated))
        node.input[7:] = _TABLES if is_rotated else ()

    return edit


def _window(layer: int, width: int) -> Edit:
    return attributes(ATTENTION.format(layer), local_window_size=width)


def _mask(layer: int, name: str) -> Edit:
    """The standard dialect: another mask."""
    return reads(ATTENTION.format(layer), 3, name)


def _capped_mask(layer: int, name: str) -> Edit:
    """The same where scores have a soft cap."""

    def edit(graph: Graph) -> None:
        node = graph.node(f"{ATTENTION.format(layer)}.visible")
        node.input[:] = [name] * len(node.input)

    return edit


def _window_of_another(graph: Graph) -> None:
    """What stands behind the mask of layer 0, so that layer 1 can read it."""
    _mask(1, "visible.window_5.output")(graph)
    _mask(0, "visible.output")(graph)


def _switch(at: int) -> Edit:
    return constant("rows_0.is_long", 1, [at])


def _each_token_switches(graph: Graph) -> None:
    """The position of a token decides, and not that of the last one."""
    graph.node("rows_0.is_long").input[0] = "positions.output"


def _short_factors(*layers: int) -> Edit:
    def edit(graph: Graph) -> None:
        for layer in layers:
            for node in _rotations(graph, layer):
                node.input[1] = "positions.output"

    return edit


def _always_long(graph: Graph) -> None:
    graph.rename_inputs({"rows_0.skipped.output": "rows_0.start"})


def _query_position(by: int) -> Edit:
    """Queries are scaled by another position."""

    def edit(graph: Graph) -> None:
        node = graph.node("query_scaling.blocks")
        node.input[0] = graph.before(node, "Add", [node.input[0], graph.constant(by)])

    return edit


def _position_in_call(graph: Graph) -> None:
    """Queries are scaled by the position in their call: wrong as soon as there is a cache."""
    node = graph.node("query_scaling.blocks")
    node.input[0] = graph.before(node, "Sub", ["position_ids.output", "past_length.output"])


def _keys_scaled(graph: Graph) -> None:
    node = graph.node(ATTENTION.format(1) + ".key.rotated")
    node.input[0] = graph.before(node, "Mul", [node.input[0], "query_scaling.output"])


def _unscaled_queries(graph: Graph) -> None:
    graph.rename_inputs({"layers.2.self_attn.query.scaled.output": "layers.2.self_attn.qkv_proj.split.q_proj"})


def _local_and_global() -> Iterator[Fault]:
    local = [f"{name}.1" for name in _TABLES]

    def tables(layer: int, names: Any) -> Edit:
        return all_of(*(reads(ATTENTION.format(layer), 7 + side, name) for side, name in enumerate(names)))

    exchanged = all_of(*(swapped_inputs(name, other) for name, other in zip(_TABLES, local, strict=True)))
    yield numeric("global rotation in a local layer", "gemma3", tables(1, _TABLES), layer=1)
    yield numeric("local rotation in a global layer", "gemma3", tables(2, local), layer=2)
    yield numeric("local sines in a global layer", "gemma3", tables(2, [_TABLES[0], local[1]]), layer=2)
    yield numeric("local and global rotation exchanged", "gemma3", exchanged, layer=0)
    linear = {"rope_type": "linear", "parameters": {"factor": 4.0}}
    yield numeric("local rotation scaled", "gemma3", _tables(".1", 1, **linear), layer=1)
    plain = {"rope_type": "default", "parameters": {}}
    yield numeric("global rotation not scaled", "gemma3", _tables("", 0, **plain), layer=0)


def _windows() -> Iterator[Fault]:
    yield numeric("window moved to the next layer", "gemma3", all_of(_window(1, -1), _window(2, 5)), layer=1)
    yield numeric("window moved to the layer before", "gemma3", all_of(_window(1, -1), _window(0, 5)), layer=0)
    yield numeric("window of a layer one wider", "gemma2", _window(2, 6), layer=2)
    yield numeric("window of a layer left out", "phi3", _window(1, -1), layer=1)
    moved = all_of(_capped_mask(0, "visible.output"), _capped_mask(1, "visible.window_5.output"))
    yield numeric("window moved to the next layer, soft cap, standard", "gemma2 standard", moved, layer=0)
    left_out = _capped_mask(2, "visible.output")
    yield numeric("window of a layer left out, soft cap, standard", "gemma2 standard", left_out, layer=2)
    yield numeric("window moved to the next layer, standard", "exaone4", _window_of_another, layer=0)
    yield numeric("window of a layer left out, standard", "ministral3", _mask(1, "visible.output"), layer=1)


def _two_tables() -> Iterator[Fault]:
    yield numeric("short factors in a layer", "phi3", _short_factors(1), layer=1)
    yield numeric("short factors in all layers", "phi3", _short_factors(0, 1, 2), layer=0)
    yield numeric("long factors for short inputs", "phi3", _always_long, layer=0)
    yield numeric("both tables of short factors", "phi3", _both_tables(False, False), layer=0)
    yield numeric("both tables of long factors", "phi3", _both_tables(True, True), layer=0)
    yield numeric("tables exchanged", "phi3", _both_tables(True, False), layer=0)
    yield numeric("switch one token later", "phi3", _switch(17), layer=0)
    yield numeric("switch one token earlier", "phi3", _switch(15), layer=0)
    yield numeric("each token switches for itself", "phi3", _each_token_switches, layer=0)
    yield numeric("factor on both tables lost", "phi3", _unscaled, layer=0)
    yield numeric("factor on the tables lost, standard", "ministral3", _unscaled, layer=0)
    yield numeric("factor on the tables lost, yarn", "smollm3", _unscaled, layer=0)


def _parts_of_heads() -> Iterator[Fault]:
    yield numeric("pairs of neighbours", "phi3", _rotates(0, 1, 2, interleaved=1), layer=0)
    yield numeric("pairs of neighbours in a layer", "phi3", _rotates(1, interleaved=1), layer=1)
    yield numeric("pairs of halves, int4", "glm4", _rotates(0, 1, 2, interleaved=0), layer=0)
    yield numeric("pairs of halves in a layer, int4", "glm4", _rotates(2, interleaved=0), layer=2)
    yield numeric("whole heads rotate", "glm4", _part(1, 16), layer=1)
    yield numeric("a smaller part of heads rotates", "glm4", _part(2, 4), layer=2)
    yield numeric("another part of heads rotates", "phi3", _part(1, 8), layer=1)
    yield numeric("the last channels of heads rotate", "glm4", _last_channels, layer=1)
    yield numeric("alpha forgotten", "hunyuan", _tables("", 0, theta=10000.0), layer=0)
    yield numeric("alpha is a factor of the base", "hunyuan", _tables("", 0, theta=1e7), layer=0)


def _layers_without() -> Iterator[Fault]:
    yield numeric("a layer rotates that must not", "smollm3", _rotates_in_attention(1, True), layer=1)
    yield numeric("a layer does not rotate", "smollm3", _rotates_in_attention(2, False), layer=2)
    moved = all_of(_rotates_in_attention(0, False), _rotates_in_attention(1, True))
    yield numeric("rotation moved to the next layer", "smollm3", moved, layer=0)
    yield numeric("a layer rotates that must not, standard", "exaone4", _rotated(1), layer=1)
    yield numeric("a layer does not rotate, standard", "exaone4", _not_rotated(2), layer=2)


def _scaled_queries() -> Iterator[Fault]:
    yield numeric("queries scaled a block early", "ministral3", constant("query_scaling.number", 1, 2.0), layer=0)
    yield numeric("queries scaled a position early", "ministral3", _query_position(1), layer=0)
    yield numeric("queries scaled a position late", "ministral3", _query_position(-1), layer=0)
    yield numeric("blocks of another size", "ministral3", constant("query_scaling.blocks", 1, 16), layer=0)
    yield numeric("queries scaled by the position in a call", "ministral3", _position_in_call, layer=0)
    yield numeric("queries scaled too much", "ministral3", scaled("query_scaling.beta", 1.05), layer=0)
    yield numeric("queries of a layer not scaled", "ministral3", _unscaled_queries, layer=2)
    yield numeric("keys scaled by position", "ministral3", _keys_scaled, layer=1)


FAULTS: tuple[Fault, ...] = (
    *_local_and_global(),
    *_windows(),
    *_two_tables(),
    *_parts_of_heads(),
    *_layers_without(),
    *_scaled_queries(),
)
