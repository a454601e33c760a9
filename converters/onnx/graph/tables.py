"""A table whose rows have bits of their own: an embedding, an LM head, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.onnx.graph import operators as op
from converters.onnx.graph.blocks import QuantizedWeight, embedding_blocks, matmul_blocks
from converters.onnx.graph.graph import GraphBuilder


@dataclass(frozen=True)
class SplitTable:
    """Rows of one table in matrices, those of one kernel in each, one below the other.

    `places` says where the row of each token is, int32 [vocab_size].
    """

    matrices: Sequence[QuantizedWeight]
    places: ir.Value

    @classmethod
    def of(cls, g: GraphBuilder, parts: Sequence[QuantizedWeight], places: NDArray[np.int32], name: str) -> SplitTable:
        """A table in parts, most bits first; those that the same kernel reads are joined when the file is opened."""
        matrices = []
        for bits in dict.fromkeys(part.bits for part in parts):
            same = [part for part in parts if part.bits == bits]
            matrices.append(_joined(g, same, f"{name}.kernel_{bits}"))
        return cls(matrices, g.constant(f"{name}.places", places))

    def rows(self, g: GraphBuilder, ids: ir.Value, name: str) -> ir.Value:
        """The rows of tokens, [batch_size, sequence_length, hidden_size]."""
        first, *others = self.matrices
        places = op.embedding(g, self.places, ids, f"{name}.places")
        if not others:
            return embedding_blocks(g, first, places, name)
        end = g.constant(f"{name}.end", np.array(first.shape[0], np.int32))
        last = g.constant(f"{name}.last", np.array(first.shape[0] - 1, np.int32))
        none = g.constant("no_row", np.array(0, np.int32))
        above = g.node("Min", [places, last], f"{name}.above")
        below = g.node("Max", [g.node("Sub", [places, end], f"{name}.beyond"), none], f"{name}.below")
        is_above = g.node("Less", [places, end], f"{name}.is_above")
        is_above = g.node("Unsqueeze", [is_above, g.ints(2)], f"{name}.are_above")
        both = [
            embedding_blocks(g, matrix, rows, f"{name}.{matrix.bits}")
            for matrix, rows in ((first, above), (others[0], below))
        ]
        return g.node("Where", [is_above, *both], name)

    def logits(self, g: GraphBuilder, x: ir.Value, name: str, accuracy_level: int) -> ir.Value:
        """`x @ table.T`, [batch_size, sequence_length, vocab_size]."""
        parts = [matmul_blocks(g, x, matrix, f"{name}.{matrix.bits}", accuracy_level) for matrix in self.matrices]
        sorted_logits = parts[0]
        if len(parts) > 1:
            sorted_logits = g.node("Concat", parts, f"{name}.parts", attributes={"axis": -1})
        # GatherElements takes a seventh of the time that Gather does where single numbers are gathered.
        shape = g.node("Shape", [sorted_logits], f"{name}.shape")
        places = g.node("Expand", [self.places, shape], f"{name}.places")
        return g.node("GatherElements", [sorted_logits, places], name, attributes={"axis": -1})


def _joined(g: GraphBuilder, parts: Sequence[QuantizedWeight], name: str) -> QuantizedWeight:
    """Matrices of the same kernel, one below the other, without zero points."""
    first, *others = parts
    if not others:
        return first
    packed, scales = (
        g.node("Concat", [getattr(part, label) for part in parts], f"{name}.{label}", attributes={"axis": 0})
        for label in ("packed", "scales")
    )
    rows = sum(part.shape[0] for part in parts)
    return QuantizedWeight((rows, first.shape[1]), first.bits, first.block_size, packed, scales, None)
