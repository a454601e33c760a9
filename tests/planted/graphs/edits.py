"""Edits of a graph that fit many nodes and weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from planted.graphs.graph import Edit, Graph
from support.product import Projection

from seap_export.model.families.names import QKV

Array = NDArray[Any]
#: What becomes of an array.
Change = Callable[[Array], Array]
#: The name of a layer's attention.
ATTENTION = "layers.{}.self_attn.attention"


def all_of(*edits: Edit) -> Edit:
    """One edit after the other."""
    return lambda graph: [edit(graph) for edit in edits]


def reads(node: str, index: int, value: str) -> Edit:
    """A node's input is another value."""
    return lambda graph: graph.node(node).input.__setitem__(index, value)


def swapped_inputs(one: str, other: str) -> Edit:
    """Whoever reads one value reads the other, and the other way round."""
    return lambda graph: graph.rename_inputs({one: other, other: one})


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


def attributes(node: str, **values: Any) -> Edit:
    """A node has other attributes."""
    return lambda graph: graph.set(graph.node(node), **values)


def zeroed_input(node: str, index: int) -> Edit:
    """A node's input is zero."""

    def edit(graph: Graph) -> None:
        target = graph.node(node)
        target.input[index] = graph.before(target, "Sub", [target.input[index]] * 2)

    return edit


def at(where: Any, change: Change) -> Change:
    """A change of a part of an array."""

    def changed(values: Array) -> Array:
        values[where] = change(values[where])
        return values

    return changed


def weight(name: str, change: Change) -> Edit:
    """A weight has other numbers."""
    return lambda graph: graph.__setitem__(name, change(graph[name]))


def scaled(name: str, factor: float = 1.01) -> Edit:
    """A weight is multiplied."""
    return weight(name, lambda values: (values * np.float32(factor)).astype(values.dtype))


def projection(layer: int, name: Projection, part: str, change: Change, *, last: bool = False) -> Edit:
    """What the graph stores of a projection, of which `change` is given a part with its outputs first; in the file
    they may be the last axis."""

    def edit(graph: Graph) -> None:
        stem, own = _outputs(graph, layer, name)
        values = graph[f"{stem}.{part}"]
        outputs = values.T if last else values
        before = outputs[own].copy()
        outputs[own] = change(before.copy())
        assert not np.array_equal(outputs[own], before), "nothing is changed"
        graph[f"{stem}.{part}"] = values

    return edit


def _outputs(graph: Graph, layer: int, name: Projection) -> tuple[str, slice]:
    """The stem of a projection's name in the graph, and which of its outputs are the projection's own."""
    stem = f"model.layers.{layer}.{'mlp' if name in ('gate_proj', 'up_proj', 'down_proj') else 'self_attn'}"
    if name not in QKV or not graph.names(f"{stem}.qkv_proj.weight"):
        return f"{stem}.{name}", slice(None)
    sizes = [graph.spec.projection_shape(each, layer)[0] for each in QKV]
    start = sum(sizes[: QKV.index(name)])
    return f"{stem}.qkv_proj", slice(start, start + sizes[QKV.index(name)])
