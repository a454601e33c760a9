"""Wrong norms where there are some behind attention and the MLP, gains stored with an offset, or norms of heads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from planted.fault import Fault, numeric
from planted.graphs.edits import ATTENTION, all_of, left_out, reads, replaced, scaled, swapped_inputs
from planted.graphs.graph import Edit, Graph

_ATTENTION, _MLP = "post_self_attn_layernorm", "post_mlp_layernorm"


def _gain(layer: int, norm: str) -> str:
    return f"model.layers.{layer}.{norm}.weight"


def _swapped(layer: int, one: str, other: str) -> Edit:
    return swapped_inputs(_gain(layer, one), _gain(layer, other))


def _added(name: str, by: float) -> Edit:
    """The offset of stored gains is lost, or counts twice."""

    def edit(graph: Graph) -> None:
        graph[name] = graph[name] + np.float32(by)

    return edit


def _all_offsets_lost(graph: Graph) -> None:
    for tensor in list(graph.proto.graph.initializer):
        if tensor.name.endswith("norm.weight"):
            _added(tensor.name, -1)(graph)


def _sum_is_normed(graph: Graph) -> None:
    """The norm is that of the stream and not of what attention adds to it."""
    norm = graph.node(f"layers.1.{_ATTENTION}")
    total = graph.node("layers.1.self_attn.residual")
    total.input[1] = norm.input[0]
    gain, attributes = norm.input[1], {"axis": -1, "epsilon": graph.spec.norm.epsilon}
    graph.behind(total.output[0], ("RMSNormalization", ["", gain], attributes))


def _normed_before(graph: Graph) -> None:
    """The norm is that of what the MLP reads and not of what it adds."""
    norm = graph.node(f"layers.1.{_MLP}")
    graph.node("layers.1.mlp.residual").input[1] = norm.input[0]
    gate, up = (graph.node(f"layers.1.mlp.{name}") for name in ("gate_proj", "up_proj"))
    gate.input[0] = up.input[0] = graph.before(
        gate, "RMSNormalization", [gate.input[0], norm.input[1]], axis=-1, epsilon=graph.spec.norm.epsilon
    )


def _norm_first(layer: int, part: str) -> Edit:
    """Queries or keys are normalised before the rotation and not after it."""

    def edit(graph: Graph) -> None:
        stem = f"layers.{layer}.self_attn.{part[0]}_norm"
        rotation, split = graph.node(f"layers.{layer}.self_attn.{part}.rotated"), graph.node(f"{stem}.split")
        split.input[0], rotation.input[0] = rotation.input[0], f"{stem}.join.output"
        attention = graph.node(ATTENTION.format(layer))
        attention.input[0 if part == "query" else 1] = rotation.output[0]
        graph.move_behind(rotation, f"{stem}.join")

    return edit


def _rotation_first(layer: int, part: str) -> Edit:
    """Queries or keys are rotated before the norm, in the standard dialect."""

    def edit(graph: Graph) -> None:
        stem, attention = f"layers.{layer}.self_attn.{part[0]}_norm", graph.node(ATTENTION.format(layer))
        rotation, split = graph.node(f"{attention.name}.{part}.rotated"), graph.node(f"{stem}.split")
        split.input[0], rotation.input[0] = rotation.output[0], split.input[0]
        attention.input[0 if part == "query" else 1] = f"{stem}.join.output"
        graph.move_behind(rotation, f"layers.{layer}.self_attn.qkv_proj.split")

    return edit


def _behind_each_half() -> Iterator[Fault]:
    for base, one, other in (("gemma3", 1, 2), ("gemma2 standard", 0, 1), ("glm4", 2, 0), ("exaone4", 1, 0)):
        attention, mlp = f"layers.{one}.{_ATTENTION}", f"layers.{other}.{_MLP}"
        yield numeric(f"norm after attention off by 1 %, {base}", base, scaled(f"model.{attention}.weight"), layer=one)
        yield numeric(f"norm after the MLP off by 1 %, {base}", base, scaled(f"model.{mlp}.weight"), layer=other)
        yield numeric(f"norm after attention left out, {base}", base, left_out(attention), layer=one)
        yield numeric(f"norm after the MLP left out, {base}", base, left_out(mlp), layer=other)
        yield numeric(f"norms of the wrong sublayers, {base}", base, _swapped(one, _ATTENTION, _MLP), layer=one)
        if base != "exaone4":
            before = _swapped(other, _ATTENTION, "post_attention_layernorm")
            yield numeric(f"norms before and after exchanged, {base}", base, before, layer=other)


def _offsets() -> Iterator[Fault]:
    yield numeric("offsets of all norms lost", "gemma3", _all_offsets_lost, layer=0)
    yield numeric("offsets of all norms lost, standard", "gemma2 standard", _all_offsets_lost, layer=0)
    yield numeric("offset of a norm lost", "gemma2", _added(_gain(2, _MLP), -1), layer=2)
    yield numeric("offset of a norm of heads lost", "gemma3", _added(_gain(1, "self_attn.q_norm"), -1), layer=1)
    yield numeric("offset of a norm of heads twice", "gemma3", _added(_gain(2, "self_attn.k_norm"), 1), layer=2)
    yield numeric("offset of the last norm lost", "gemma3", _added("model.norm.weight", -1), layer=None)


def _of_heads() -> Iterator[Fault]:
    q_norm, k_norm = (f"layers.1.self_attn.{norm}" for norm in ("q_norm", "k_norm"))
    both = all_of(*(_norm_first(layer, part) for layer in range(3) for part in ("query", "key")))
    yield numeric("norm of queries before the rotation", "hunyuan", _norm_first(1, "query"), layer=1)
    yield numeric("norm of keys before the rotation", "hunyuan", _norm_first(1, "key"), layer=1)
    yield numeric("norms before the rotation", "hunyuan", both, layer=0)
    yield numeric("norm of queries after the rotation", "exaone4", _rotation_first(2, "query"), layer=2)
    yield numeric("norm of keys after the rotation", "exaone4", _rotation_first(0, "key"), layer=0)
    yield numeric("norm of rotated queries off by 1 %", "hunyuan", scaled(f"model.{q_norm}.weight"), layer=1)
    yield numeric("norm of rotated keys left out", "hunyuan", left_out(k_norm), layer=1)
    yield numeric("norm of queries left out, standard", "exaone4", left_out(q_norm), layer=1)
    yield numeric(
        "norms of rotated queries and keys swapped",
        "hunyuan",
        _swapped(1, "self_attn.q_norm", "self_attn.k_norm"),
        layer=1,
    )
    yield numeric(
        "norm of keys of another layer",
        "gemma3",
        replaced(_gain(1, "self_attn.k_norm"), _gain(0, "self_attn.k_norm")),
        layer=1,
    )


FAULTS: tuple[Fault, ...] = (
    *_behind_each_half(),
    *_offsets(),
    *_of_heads(),
    numeric("norm of the sum", "exaone4", _sum_is_normed, layer=1),
    numeric("norm before the MLP instead of after it", "exaone4", _normed_before, layer=1),
    numeric(
        "MLP reads the stream without its norm",
        "gemma2 standard",
        all_of(
            *(
                reads(f"layers.1.mlp.{name}", 0, "layers.1.post_attention_layernorm.residual.output")
                for name in ("gate_proj", "up_proj")
            )
        ),
        layer=1,
    ),
)
