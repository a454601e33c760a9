"""A graph that returns logits for its last token only, changed to return those of all positions."""

from __future__ import annotations

from pathlib import Path

import onnx

from converters.onnx.graph.decoder import LAST_TOKEN


def with_all_logits(model: Path) -> bytes:
    """The content of an .onnx file that this package wrote, with `logits` for every position of a call.

    Nothing else changes, so the result shows what the file computes at positions whose logits it does not return. The
    data file is not read. A graph that already returns all logits stays as it is.
    """
    proto = onnx.load(model, load_external_data=False)
    graph = proto.graph
    selected = next((node for node in graph.node if node.name == LAST_TOKEN), None)
    if selected is not None:
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name == selected.output[0]:
                    node.input[index] = selected.input[0]
        graph.node.remove(selected)
        logits = next(output for output in graph.output if output.name == "logits")
        logits.type.tensor_type.shape.dim[1].dim_param = "sequence_length"
        del graph.value_info[:]  # shapes of what follows the removed node no longer hold
    content: bytes = proto.SerializeToString()
    return content
