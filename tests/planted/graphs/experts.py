"""Wrong mixtures of experts and wrong sinks, in fp16: nearly tied routers, which parity allows for, hide none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from planted.fault import Fault, numeric
from planted.graphs.graph import Edit, Graph
from planted.graphs.weights import Array

_LAYER = "model.layers.1."


def _changed(name: str, change: Callable[[Array], Array]) -> Edit:
    def edit(graph: Graph) -> None:
        graph[_LAYER + name] = change(graph[_LAYER + name])

    return edit


def _swapped(experts: Array) -> Array:
    """The first two of them, along the last axis."""
    return experts[..., [1, 0, *range(2, experts.shape[-1])]]


def _without_bound(graph: Graph) -> None:
    graph.set(graph.node("layers.1.experts.experts_down_proj"), swiglu_limit=1e4)


FAULTS: tuple[Fault, ...] = (
    numeric(
        "weight", "two rows of a router swapped", "experts", _changed("mlp.gate.weight.transposed", _swapped), layer=1
    ),
    numeric("attribute", "gates not clamped", "experts", _without_bound, layer=1),
    numeric("weight", "sinks dropped", "experts", _changed("self_attn.sinks", np.zeros_like), layer=1),
)
