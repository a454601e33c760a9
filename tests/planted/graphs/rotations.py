"""Layers with the rotation or the window of others, parts of heads, two tables, and queries scaled by position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from planted.fault import Fault, numeric
from planted.graphs.edits import ATTENTION, all_of, attributes, constant, reads, scaled
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


def _rotates_in_attention(layer: int, is_rotated: bool) -> Edit:
    """The fused dialect: attention rotates, or does not."""

    def edit(graph: Graph) -> None:
        node = graph.node(ATTENTION.format(layer))
        graph.set(node, do_rotary=int(is_rotated))
        node.input[7:] = _TABLES if is_rotated else ()

    return edit


def _window(layer: int, width: int) -> Edit:
    return attributes(ATTENTION.format(layer), local_window_size=width)


def _switch(at: int) -> Edit:
    return constant("rows_0.is_long", 1, [at])


def _query_position(by: int) -> Edit:
    """Queries are scaled by another position."""

    def edit(graph: Graph) -> None:
        node = graph.node("query_scaling.blocks")
        node.input[0] = graph.before(node, "Add", [node.input[0], graph.constant(by)])

    return edit


_LOCAL = all_of(*(reads(ATTENTION.format(2), 7 + side, f"{name}.1") for side, name in enumerate(_TABLES)))
_NEXT = all_of(_rotates_in_attention(0, False), _rotates_in_attention(1, True))
FAULTS: tuple[Fault, ...] = (
    numeric("wiring", "local rotation in a global layer", "gemma3", _LOCAL, layer=2),
    numeric("attribute", "window moved to the next layer", "gemma3", all_of(_window(1, -1), _window(2, 5)), layer=1),
    numeric("constant", "switch one token later", "phi3", _switch(17), layer=0),
    numeric("constant", "factor on both tables lost", "phi3", _unscaled, layer=0),
    numeric("attribute", "pairs of neighbours in a layer", "phi3", _rotates(1, interleaved=1), layer=1),
    numeric("constant", "alpha is a factor of the base", "hunyuan", _tables("", 0, theta=1e7), layer=0),
    numeric("attribute", "rotation moved to the next layer", "smollm3", _NEXT, layer=0),
    numeric("constant", "queries scaled a position early", "ministral3", _query_position(1), layer=0),
)
