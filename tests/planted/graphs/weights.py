"""Where the float weights of a layer stand in a graph, where queries, keys and values are packed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from planted.graphs.graph import Edit, Graph
from support.product import Projection

from seap_export.model.families.names import QKV

Array = NDArray[Any]


def layer_name(layer: int, projection: str) -> str:
    """The name that a projection's parts begin with."""
    output = "mlp" if projection in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    return f"model.layers.{layer}.{output}.{projection}"


def columns_of(graph: Graph, layer: int, projection: Projection) -> tuple[str, slice]:
    """The stem of a projection's name in the graph, and which of its outputs are the projection's own."""
    packed = layer_name(layer, "qkv_proj")
    if projection not in QKV or not any(name in graph for name in _weights(packed)):
        return layer_name(layer, projection), slice(None)
    sizes = [graph.spec.projection_shape(name, layer)[0] for name in QKV]
    start = sum(sizes[: QKV.index(projection)])
    return packed, slice(start, start + sizes[QKV.index(projection)])


def _weights(stem: str) -> tuple[str, ...]:
    return f"{stem}.weight.transposed", f"{stem}.weight.packed"


def change_weight(graph: Graph, layer: int, projection: Projection, change: Callable[[Array], Any]) -> None:
    """Lets `change` alter a float weight, [out, in], in place; what it returns replaces all of it."""
    stem, columns = columns_of(graph, layer, projection)
    name = f"{stem}.weight.transposed"
    weight = graph[name]
    columns_of_part = weight[:, columns].T
    result = change(columns_of_part)
    if result is not None:
        columns_of_part[...] = result
    graph[name] = weight


def change_bias(graph: Graph, layer: int, projection: Projection, change: Callable[[Array], Any]) -> None:
    """Replaces a bias, [out], by what `change` makes of it."""
    stem, columns = columns_of(graph, layer, projection)
    bias = graph[f"{stem}.bias"]
    bias[columns] = change(bias[columns])
    graph[f"{stem}.bias"] = bias


def with_weight(layer: int, projection: Projection, change: Callable[[Array], Any]) -> Edit:
    """An edit of one weight, [out, in]."""
    return lambda graph: change_weight(graph, layer, projection, change)


def with_bias(layer: int, projection: Projection, change: Callable[[Array], Any]) -> Edit:
    """An edit of one bias, [out]."""
    return lambda graph: change_bias(graph, layer, projection, change)


def heads_of(array: Array, head_dim: int) -> list[Array]:
    """The parts of an array that belong to each head."""
    return np.split(array, len(array) // head_dim)
