"""The router as an ONNX graph: a table with the logits of each token, their mean over the prompt, softmax.

The classifier is affine in the mean embedding, and an affine map of a mean is the mean of the mapped values. So the
graph stores a row of [classes] for each token instead of one of [hidden]:

    table[v] = weight @ embedding[v] + bias,    probabilities = softmax(mean of table[ids] over the real tokens)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from converters.onnx.graph.graph import GraphBuilder
from converters.onnx.graph.operators import embedding as rows_of
from converters.onnx.graph.operators import multiply

_PRODUCER = "seap-export"
#: Number of embedding rows to widen to float64 at a time.
_BLOCK_ROWS = 4096


def write_router_graph(
    path: Path, embedding: torch.Tensor, weight: NDArray[np.float64], bias: NDArray[np.float64]
) -> None:
    """Writes the graph, including its table; the same input gives the same bytes.

    Args:
        path: The .onnx file to write.
        embedding: [vocabulary, hidden], any float dtype.
        weight: float64 [classes, hidden].
        bias: float64 [classes].
    """
    ir.save(router_graph(fold_table(embedding, weight, bias)).build(_PRODUCER), path)


def fold_table(embedding: torch.Tensor, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> NDArray[np.float32]:
    """Computes each token's logits in float64, a block of rows at a time.

    Args:
        embedding: [vocabulary, hidden], any float dtype.
        weight: float64 [classes, hidden].
        bias: float64 [classes].

    Returns:
        float32 [vocabulary, classes].
    """
    table = np.empty((len(embedding), len(weight)), np.float32)
    for start in range(0, len(embedding), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        table[block] = embedding[block].double().numpy() @ weight.T + bias
    return table


def router_graph(table: NDArray[np.float32]) -> GraphBuilder:
    """Builds the graph for a table of logits, float32 [vocabulary, classes].

    Inputs: `input_ids` and `attention_mask`, int64 [batch_size, length]; the mask is 1 for real tokens and 0 for
    padding, which may be anywhere. Output: `probabilities`, float32 [batch_size, classes]; uniform without tokens.
    """
    g = GraphBuilder("router")
    dims = ("batch_size", "length")
    ids, mask = (g.input(name, ir.DataType.INT64, dims) for name in ("input_ids", "attention_mask"))
    logits = rows_of(g, g.constant("logits_of_token", table), ids, "logits")
    along_length = g.ints(1, name="length_axis")
    real = g.node("Cast", [mask], "mask.real", attributes={"to": int(ir.DataType.FLOAT)})
    weights = g.node("Unsqueeze", [real, g.ints(2, name="last_axis")], "mask.weights")
    total = g.node(
        "ReduceSum", [multiply(g, logits, weights, "masked"), along_length], "sum", attributes={"keepdims": 0}
    )
    count = g.node("ReduceSum", [real, along_length], "count", attributes={"keepdims": 1})
    # Dividing by at least 1 avoids 0 / 0: without tokens the logits are 0 and all classes equally likely.
    at_least_one = g.node("Max", [count, g.constant("one", np.array(1, np.float32))], "count.at_least_one")
    mean = g.node("Div", [total, at_least_one], "mean")
    probabilities = g.node("Softmax", [mean], "softmax", attributes={"axis": -1})
    g.output(probabilities, "probabilities", ir.DataType.FLOAT, ("batch_size", table.shape[1]))
    return g
