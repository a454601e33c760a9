"""Edits of a graph that fit many nodes and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from planted.graphs.graph import Edit, Graph

#: The name of a layer's attention.
ATTENTION = "layers.{}.self_attn.attention"


def all_of(*edits: Edit) -> Edit:
    """One edit after the other."""

    def edit(graph: Graph) -> None:
        for each in edits:
            each(graph)

    return edit


def reads(node: str, index: int, value: str) -> Edit:
    """A node's input is another value."""

    def edit(graph: Graph) -> None:
        graph.node(node).input[index] = value

    return edit


def constant(node: str, index: int, value: Any) -> Edit:
    """A node's input is a constant of its own, of the dtype of the one that it was."""

    def edit(graph: Graph) -> None:
        target = graph.node(node)
        target.input[index] = graph.constant(value, graph[target.input[index]].dtype)

    return edit


def becomes(node: str, op_type: str, inputs: Sequence[str] = (), domain: str = "", **attributes: Any) -> Edit:
    """A node is of another operator, and reads other values if any are given."""

    def edit(graph: Graph) -> None:
        target = graph.node(node)
        target.op_type, target.domain = op_type, domain
        target.input[:] = inputs or list(target.input)
        del target.attribute[:]
        graph.set(target, **attributes)

    return edit


def left_out(node: str) -> Edit:
    """A node passes on its first input."""
    return lambda graph: becomes(node, "Identity", [graph.node(node).input[0]])(graph)


def attributes(node: str, **values: Any) -> Edit:
    """A node has other attributes."""
    return lambda graph: graph.set(graph.node(node), **values)


def scaled(name: str, factor: float = 1.01) -> Edit:
    """A weight is multiplied."""

    def edit(graph: Graph) -> None:
        graph[name] = (graph[name] * np.float32(factor)).astype(graph[name].dtype)

    return edit


def replaced(name: str, by: str) -> Edit:
    """A weight has the numbers of another."""

    def edit(graph: Graph) -> None:
        graph[name] = graph[by]

    return edit


def swapped_inputs(one: str, other: str) -> Edit:
    """Whoever reads one value reads the other, and the other way round."""
    return lambda graph: graph.rename_inputs({one: other, other: one})
