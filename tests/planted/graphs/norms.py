"""Wrong norms where there are some behind attention and the MLP, gains stored with an offset, or norms of heads."""

from __future__ import annotations

import numpy as np
from planted.fault import Fault, numeric
from planted.graphs.edits import ATTENTION, all_of, reads
from planted.graphs.graph import Edit, Graph


def _gain(layer: int, norm: str) -> str:
    return f"model.layers.{layer}.{norm}.weight"


def _added(name: str, by: float) -> Edit:
    """The offset of stored gains is lost, or counts twice."""

    def edit(graph: Graph) -> None:
        graph[name] = graph[name] + np.float32(by)

    return edit


def _all_offsets_lost(graph: Graph) -> None:
    for tensor in list(graph.proto.graph.initializer):
        if tensor.name.endswith("norm.weight"):
            _added(tensor.name, -1)(graph)


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


_MLP_READS = (f"layers.1.mlp.{name}" for name in ("gate_proj", "up_proj"))
FAULTS: tuple[Fault, ...] = (
    numeric("weight", "offsets of all norms lost", "gemma3", _all_offsets_lost, layer=0),
    numeric("weight", "offset of a norm of heads twice", "gemma3", _added(_gain(2, "self_attn.k_norm"), 1), layer=2),
    numeric("wiring", "norm of queries before the rotation", "hunyuan", _norm_first(1, "query"), layer=1),
    numeric(
        "wiring",
        "MLP reads the stream without its norm",
        "gemma2 standard",
        all_of(*(reads(name, 0, "layers.1.post_attention_layernorm.residual.output") for name in _MLP_READS)),
        layer=1,
    ),
)
