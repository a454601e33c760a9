"""Where the float weights of a layer stand in a graph, however projections are packed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mutations.graph import Edit, Graph
from numpy.typing import NDArray

from seap_export.families.family import JOINT_PROJECTIONS, Projection

__all__ = ["change_bias", "change_weight", "columns_of", "heads_of", "layer_name", "with_bias", "with_weight"]

Array = NDArray[Any]


def layer_name(layer: int, projection: str) -> str:
    """The name that a projection's parts begin with, packed or not."""
    half = "mlp" if projection.startswith(("gate", "up", "down")) else "self_attn"
    return f"model.layers.{layer}.{half}.{projection}"


def columns_of(graph: Graph, layer: int, projection: Projection) -> tuple[str, slice]:
    """The stem of a projection's name in the graph, and which of its outputs are the projection's own."""
    for packed, projections in JOINT_PROJECTIONS.items():
        stem = layer_name(layer, packed)
        if projection in projections and any(name in graph for name in _weights(stem)):
            sizes = [graph.spec.projection_shape(name, layer)[0] for name in projections]
            start = sum(sizes[: projections.index(projection)])
            return stem, slice(start, start + sizes[projections.index(projection)])
    return layer_name(layer, projection), slice(None)


def _weights(stem: str) -> tuple[str, ...]:
    return f"{stem}.weight.transposed", f"{stem}.weight.packed"


def change_weight(graph: Graph, layer: int, projection: Projection, change: Callable[[Array], Any]) -> None:
    """Lets `change` alter a float weight, [out, in], in place; what it returns replaces all of it."""
    stem, columns = columns_of(graph, layer, projection)
    name = f"{stem}.weight.transposed"
    weight = graph[name]
    own = weight[:, columns].T
    result = change(own)
    if result is not None:
        own[...] = result
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


def heads_of(array: Array, head_dim: int, axis: int = 0) -> list[Array]:
    """The parts of an array that belong to each head."""
    return np.split(array, array.shape[axis] // head_dim, axis)
