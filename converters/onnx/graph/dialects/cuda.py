"""The fused operators as CUDA runs them best: the fewest kernels, and no value that the host must wait for.

Whatever the host reads in the middle of a graph costs a copy and a wait in each call, and a graph that needs one
cannot be captured as a CUDA graph. So no node here branches on data, and shapes depend on the inputs' shapes alone.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from converters.onnx.graph.dialects.fused import FusedDialect
from converters.onnx.graph.dialects.fused_tokens import CudaTokens
from converters.onnx.graph.graph import GraphBuilder
from converters.onnx.graph.operators import cast
from converters.onnx.graph.rotary import RotaryTables
from seap_export.model.families import Attention, RopeSpec
from seap_export.model.families.sublayers import Activation

#: Name of the node that makes the logits of a row infinite or NaN if padding stands before one of its tokens, or if it
#: is longer than the model's positions.
POISON = "poison_of_holes_and_left_padding"


class CudaDialect(FusedDialect):
    """com.microsoft operators of ONNX Runtime 1.31; see `converters.onnx.graph.dialects.Dialect`."""

    tokens_type = CudaTokens

    def __init__(self, g: GraphBuilder, ids: ir.Value, mask: ir.Value, tables: RotaryTables) -> None:
        super().__init__(g, ids, mask, tables)
        self._ids, self._reads_positions = ids, False

    @property
    def state_dtype(self) -> ir.DataType:  # type: ignore[override]
        """The dtype of the graph: LinearAttention of onnxruntime-gpu 1.31 has no kernels for others."""
        return self._tables.precision.onnx_dtype

    def _gates_by_norm(self, kind: Activation) -> bool:
        return True

    def head_norm(self, x: ir.Value, gamma: ir.Value, epsilon: float, name: str) -> ir.Value:
        """The operator that ONNX Runtime fuses into GroupQueryAttention, which the standard's is not."""
        attributes = {"axis": -1, "epsilon": epsilon, "stash_type": int(ir.DataType.FLOAT)}
        return self._g.node("SimplifiedLayerNormalization", [x, gamma], name, attributes=attributes)

    def rotated(self, x: ir.Value, attention: Attention, heads: int, name: str) -> ir.Value:
        self._reads_positions = True
        return super().rotated(x, attention, heads, name)

    def position_rows(self, offset: int) -> ir.Value:
        """Positions beyond the table get its last row, and `poisoned` marks them."""
        self._reads_positions = True
        return self._tables.learned_rows(offset, self.tokens, is_guarded=False)

    def poisoned(self, x: ir.Value, name: str) -> ir.Value:
        """`x` divided by 1, or by 0 in rows with padding before a token, or with one beyond the positions."""
        g = self._g
        first = g.constant("first_column", np.array([[0]], np.int64))
        is_first = g.node("Gather", [self.tokens.mask, first], f"{name}.first", attributes={"axis": 1})
        is_sound = g.node("Greater", [is_first, self._misplaced(f"{name}.misplaced")], f"{name}.dense")
        if self._reads_positions:  # GroupQueryAttention refuses a cache longer than its tables, but not this
            last = g.node("Unsqueeze", [self.tokens.last, g.ints(1, 2, name="axes_1_2")], f"{name}.last")
            limit = g.ints(self._tables.positions, name="max_positions")
            is_sound = g.node("And", [is_sound, g.node("Less", [last, limit], f"{name}.fits")], f"{name}.sound")
        divisor = cast(g, is_sound, self._tables.precision.onnx_dtype, f"{name}.divisor")
        return g.node("Div", [x, divisor], name)

    def _misplaced(self, name: str) -> ir.Value:
        """How many columns behind the first are not as the number of tokens says, int64 [batch_size, 1, 1].

        Of as many columns as the call has tokens: all of a prompt's, and none in a decode step, for which only the
        sum is a kernel.
        """
        g, one = self._g, self._g.ints(1, name="one")
        length = g.node("Shape", [self._ids], f"{name}.length", attributes={"start": 1, "end": 2})
        mask = g.node("Slice", [self.tokens.mask, one, length, one], f"{name}.mask")
        ones = cast(g, g.node("Equal", [mask, mask], f"{name}.same"), ir.DataType.INT64, f"{name}.ones")
        columns = g.node("CumSum", [ones, g.integer(1, "step")], f"{name}.columns")
        last = g.node("Unsqueeze", [self.tokens.last, one], f"{name}.last")
        expected = g.node("LessOrEqual", [columns, last], f"{name}.expected")
        wrong = g.node("Xor", [cast(g, mask, ir.DataType.BOOL, f"{name}.given"), expected], f"{name}.wrong")
        counted = cast(g, wrong, ir.DataType.INT64, f"{name}.counted")
        total = g.node("ReduceSum", [counted, one], f"{name}.total", attributes={"keepdims": 1})
        return g.node("Unsqueeze", [total, g.ints(2, name="last_axis")], name)

    def _rows(self, rope: RopeSpec) -> ir.Value:
        return self._tables.rows(rope, self.tokens, is_guarded=False)
