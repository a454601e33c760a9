"""Wrong powers of two in a graph that is scaled because it would overflow in fp16."""

from __future__ import annotations

import json
from typing import Any

from planted.artifacts import SCALED
from planted.fault import Change, Fault, numeric, quiet
from planted.graphs.edits import attributes, scaled
from planted.graphs.graph import Graph, edited

from converters.onnx.weights.scaling import SCALING_NOTE

_O_PROJ, _UP, _DOWN = (
    f"model.layers.1.{name}.weight.transposed" for name in ("self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
)


def _note(change: dict[str, Any] | None) -> Change:
    """The note has other values, or is lost."""

    def edit(graph: Graph) -> None:
        (entry,) = (entry for entry in graph.proto.metadata_props if entry.key == SCALING_NOTE)
        if change is None:
            graph.proto.metadata_props.remove(entry)
        else:
            entry.value = json.dumps(json.loads(entry.value) | change)

    return edited(edit)


FAULTS: tuple[Fault, ...] = (
    numeric("weight", "scaling: not taken back after up_proj", SCALED, scaled(_UP, 0.5), layer=1),
    numeric(
        "attribute",
        "scaling: epsilon of a norm as in the model, but larger",
        SCALED,
        attributes("layers.1.input_layernorm", epsilon=1e5),
        layer=1,
    ),
    quiet("metadata", "scaling: claims another stream", SCALED, _note({"stream": 1}), codes=(3, 7)),
)
