"""Wrong weights and biases of linear layers in float graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from planted.fault import Fault, numeric
from planted.graphs.graph import Edit, Graph
from planted.graphs.weights import Array, layer_name, with_bias, with_weight
from support.variations import micro_config

from seap_export.model.families import model_spec


def _flip_largest(weight: Array) -> None:
    """The other sign for the largest weight."""
    index = np.unravel_index(np.abs(weight).argmax(), weight.shape)
    weight[index] = -weight[index]


def _in_bfloat16(weight: Array) -> Array:
    """As if stored in bfloat16 once."""
    return ((weight.astype(np.float32).view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)


def _nudge(weight: Array) -> None:
    weight[3] *= 1.02


def _swap_rows(weight: Array) -> None:
    weight[[1, 2]] = weight[[2, 1]]


def _roll_inputs(weight: Array) -> Array:
    return np.roll(weight, 1, axis=1)


def _gate_and_up_swapped(layer: int) -> Edit:
    def edit(graph: Graph) -> None:
        gate, up = (f"{layer_name(layer, name)}.weight.transposed" for name in ("gate_proj", "up_proj"))
        graph.rename_inputs({gate: up, up: gate})

    return edit


def _of_another_layer(stem: str, layer: int, other: int) -> Edit:
    def edit(graph: Graph) -> None:
        graph[stem.format(layer)] = graph[stem.format(other)]

    return edit


def _all_in_half(graph: Graph) -> None:
    """fp32 weights that went through fp16 on their way."""
    for tensor in list(graph.proto.graph.initializer):
        if tensor.name.endswith("_proj.weight.transposed"):
            graph[tensor.name] = graph[tensor.name].astype(np.float16).astype(np.float32)


def _without_compensation(node: str) -> Edit:
    """The bias that makes up for what was removed is not added: the fourth input of the fused sum and norm."""

    def edit(graph: Graph) -> None:
        inputs = graph.node(node).input
        assert inputs[3].endswith("_proj.bias")
        del inputs[3]

    return edit


def _bias_add_skipped(graph: Graph) -> None:
    graph.rename_inputs({"layers.1.mlp.gate_proj.bias_add.output": "layers.1.mlp.gate_proj.output"})


def _zero(bias: Array) -> Array:
    return bias * 0


def _signs() -> Iterator[Fault]:
    for projection in model_spec(micro_config(model_type="llama")).layers[1].projections:
        yield numeric(f"sign in {projection}", "routed", with_weight(1, projection, _flip_largest), layer=1)
    yield numeric("sign in q_proj, qwen3", "qwen3", with_weight(0, "q_proj", _flip_largest), layer=0)
    yield numeric("sign in v_proj, tied", "tied", with_weight(0, "v_proj", _flip_largest), layer=0)
    yield numeric("sign in down_proj, standard", "standard", with_weight(2, "down_proj", _flip_largest), layer=2)


def _small() -> Iterator[Fault]:
    rounding: dict[str, Callable[[Array], Array | None]] = {"in bfloat16": _in_bfloat16, "2 % in a row": _nudge}
    for name, change in rounding.items():
        yield numeric(f"up_proj {name}", "routed", with_weight(1, "up_proj", change), layer=1)
    yield numeric("o_proj in bfloat16, qwen3", "qwen3", with_weight(1, "o_proj", _in_bfloat16), layer=1)
    yield numeric("all weights in fp16", "whole", _all_in_half, layer=0)


FAULTS: tuple[Fault, ...] = (
    *_signs(),
    *_small(),
    numeric("gate and up swapped", "routed", _gate_and_up_swapped(1), layer=1),
    numeric("gate and up swapped, standard", "standard", _gate_and_up_swapped(0), layer=0),
    numeric("neurons of down_proj shifted", "tied", with_weight(1, "down_proj", _roll_inputs), layer=1),
    numeric("neurons of up_proj swapped", "qwen3", with_weight(2, "up_proj", _swap_rows), layer=2),
    numeric(
        "o_proj of another layer",
        "whole",
        _of_another_layer("model.layers.{}.self_attn.o_proj.weight.transposed", 2, 1),
        layer=2,
    ),
    numeric("bias of q dropped", "routed", with_bias(1, "q_proj", _zero), layer=1),
    numeric("bias of k negated", "routed", with_bias(2, "k_proj", np.negative), layer=2),
    numeric("bias of v dropped", "routed", with_bias(0, "v_proj", _zero), layer=0),
    numeric("bias of up_proj negated", "routed", with_bias(1, "up_proj", np.negative), layer=1),
    numeric("bias of gate_proj not added", "routed", _bias_add_skipped, layer=1),
    numeric(
        "bias of o_proj of another layer",
        "routed",
        _of_another_layer("model.layers.{}.self_attn.o_proj.bias", 2, 1),
        layer=2,
    ),
    numeric(
        "compensation of o_proj dropped", "tied", _without_compensation("layers.2.post_attention_layernorm"), layer=2
    ),
    numeric("compensation of down_proj dropped", "qwen3", _without_compensation("layers.2.input_layernorm"), layer=1),
    numeric("compensation of the last down_proj dropped", "tied", _without_compensation("norm"), layer=2),
    numeric("compensation of down_proj negated", "qwen3", with_bias(1, "down_proj", np.negative), layer=1),
)
