"""Wrong embeddings, LM heads and logits, and rows of a batch that get what belongs to others."""

from __future__ import annotations

from typing import Any

import numpy as np
from planted.fault import Fault, numeric, quiet
from planted.graphs.graph import Edit, Graph, edited

#: "the", which the texts hold, and an id without a word.
_COMMON, _RARE = 4, 93
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight.transposed"
_BACKWARDS = ([-1], [np.iinfo(np.int64).min], [0], [-1])


def _row(token: int, factor: float) -> Edit:
    def edit(graph: Graph) -> None:
        table = graph[_EMBEDDING]
        table[token] *= factor
        graph[_EMBEDDING] = table

    return edit


def _one_value(value: float) -> Any:
    def edit(graph: Graph) -> None:
        table = graph[_EMBEDDING]
        table[_RARE, 7] = value
        graph[_EMBEDDING] = table

    return edited(edit)


def _untied_and_perturbed(graph: Graph) -> None:
    table = graph[_EMBEDDING]
    noise = np.random.default_rng(0).normal(0, 1e-2, table.shape)
    node = graph.node("lm_head")
    index = list(node.input).index(_EMBEDDING)
    node.input[index] = graph.constant(table + noise, table.dtype)


def _logits_backwards(graph: Graph) -> None:
    """The rows of the batch in the opposite order."""
    graph.behind("logits", ("Slice", ["", *(graph.constant(value) for value in _BACKWARDS)], {}))


def _last_column(graph: Graph) -> None:
    """The last place of the call instead of each row's last token: the same for a prompt alone."""
    node = graph.node("last_token.place")
    batch = graph.before(node, "Sub", ["mask.last.output", "mask.last.output"])
    node.op_type, node.input[:] = "Add", ["last_token.end.output", batch]


FAULTS: tuple[Fault, ...] = (
    numeric("weight", "embedding of a rare token off by 2 %", "whole", _row(_RARE, 1.02), layer=None),
    quiet("weight", "NaN in a rare token, fp16", "half", _one_value(np.nan), codes=(3, 7)),
    numeric("wiring", "LM head untied and perturbed", "tied", _untied_and_perturbed, layer=None),
    numeric("wiring", "rows of a batch give each other's logits", "whole", _logits_backwards, layer=None),
    numeric("wiring", "last column in the place of the last token, int8", "window", _last_column, layer=None),
)
