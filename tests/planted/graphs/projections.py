"""Wrong weights and biases of linear layers in float graphs."""

from __future__ import annotations

import numpy as np
from planted.fault import Fault, numeric
from planted.graphs.graph import Edit, Graph
from planted.graphs.weights import Array, layer_name, with_bias, with_weight


def _flip_largest(weight: Array) -> None:
    """The other sign for the largest weight."""
    index = np.unravel_index(np.abs(weight).argmax(), weight.shape)
    weight[index] = -weight[index]


def _gate_and_up_swapped(layer: int) -> Edit:
    def edit(graph: Graph) -> None:
        gate, up = (f"{layer_name(layer, name)}.weight.transposed" for name in ("gate_proj", "up_proj"))
        graph.rename_inputs({gate: up, up: gate})

    return edit


def _all_in_half(graph: Graph) -> None:
    """fp32 weights that went through fp16 on their way."""
    for tensor in list(graph.proto.graph.initializer):
        if tensor.name.endswith("_proj.weight.transposed"):
            graph[tensor.name] = graph[tensor.name].astype(np.float16).astype(np.float32)


def _zero(bias: Array) -> Array:
    return bias * 0


FAULTS: tuple[Fault, ...] = (
    numeric("weight", "sign in up_proj", "routed", with_weight(1, "up_proj", _flip_largest), layer=1),
    numeric("weight", "sign in down_proj, standard", "standard", with_weight(2, "down_proj", _flip_largest), layer=2),
    numeric("bits", "all weights in fp16", "whole", _all_in_half, layer=0),
    numeric("wiring", "gate and up swapped", "routed", _gate_and_up_swapped(1), layer=1),
    numeric("weight", "bias of q dropped", "routed", with_bias(1, "q_proj", _zero), layer=1),
)
