"""Finds the tokens of a call by their number in each row, as GroupQueryAttention does."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import onnx_ir as ir

from converters.onnx.graph.graph import GraphBuilder
from converters.onnx.graph.operators import add, cast

#: Name of the node that fails on a mask that would be misread; the runtime's error message quotes it.
MASK_GUARD = "mask_with_holes_or_left_padding_is_not_supported_pad_on_the_right"


class FusedTokens:
    """A row's tokens end at its last position, or begin at 0 in a prompt.

    Attributes:
        mask: int64 [batch_size, total_sequence_length], 1 for real tokens, cached and new.
        last: Each row's last position, int64 [batch_size].
    """

    def __init__(self, g: GraphBuilder, ids: ir.Value, mask: ir.Value) -> None:
        self._g, self._ids, self.mask = g, ids, mask
        self._total = g.node("Shape", [mask], "mask.width", attributes={"start": 1, "end": 2})
        self.last = self._counted()
        total = g.node("Squeeze", [self._total], "mask.total")
        self.lengths = tuple(
            cast(g, value, ir.DataType.INT32, name)
            for value, name in ((self.last, "last_position"), (total, "total_length"))
        )

    @property
    def positions(self) -> ir.Value:
        return self._positions[0]

    @property
    def row_last(self) -> ir.Value:
        return self._positions[1]

    @cached_property
    def real(self) -> ir.Value:
        """The columns up to the last token of the call."""
        g, one = self._g, self._g.ints(1, name="one")
        ends = g.node("Unsqueeze", [self.ends, one], "input_ids.end")
        real = g.node("LessOrEqual", [self._columns, ends], "input_ids.is_real")
        return g.node("Unsqueeze", [real, g.ints(2, name="last_axis")], "input_ids.real")

    @cached_property
    def is_step(self) -> ir.Value:
        """Compares each row's last position with its column, which are the same in a prompt."""
        g = self._g
        one, axes = g.ints(1, name="one"), g.ints(1, 2, name="axes_1_2")
        is_single = g.node("Equal", [self._width, one], "input_ids.is_single")
        follows = g.node("Greater", [self.last, self.last_columns], "input_ids.follows")
        return g.node("Unsqueeze", [g.node("And", [is_single, follows], "input_ids.is_step"), axes], "is_step")

    @cached_property
    def last_columns(self) -> ir.Value:
        """The column of the last token in a prompt, which may be padded; the end of the call in later calls."""
        g = self._g
        end = g.node("Sub", [self._width, g.ints(1, name="one")], "last_token.end")
        return g.node("Min", [self.last, end], "last_token.place")

    @cached_property
    def ends(self) -> ir.Value:
        return add(self._g, self.last_columns, self._g.ints(1, name="one"), "last_token.columns")

    @cached_property
    def _columns(self) -> ir.Value:
        """1, 2, ... for the columns of this call, int64 [batch_size, sequence_length]."""
        g, step = self._g, self._g.integer(1, "step")
        same = g.node("Equal", [self._ids, self._ids], "input_ids.same")
        return g.node("CumSum", [cast(g, same, ir.DataType.INT64, "input_ids.ones"), step], "positions.counted")

    @cached_property
    def _width(self) -> ir.Value:
        """The number of tokens of a call, padding included, int64 [1]."""
        return self._g.node("Shape", [self._ids], "last_token.width", attributes={"start": 1, "end": 2})

    @cached_property
    def _positions(self) -> tuple[ir.Value, ir.Value]:
        g = self._g
        zero, one = g.ints(0, name="zero"), g.ints(1, name="one")
        first, step = g.integer(0, "first"), g.integer(1, "step")
        length = g.node("Shape", [self._ids], "positions.length", attributes={"start": 1, "end": 2})
        before = g.node("Sub", [add(g, self.last, one, "positions.count"), length], "positions.before")
        start = g.node("Max", [before, zero], "positions.start")
        offsets = g.node("Range", [first, g.node("Squeeze", [length], "positions.end"), step], "positions.own")
        start = g.node("Unsqueeze", [start, one], "positions.first")
        last = g.node("Unsqueeze", [self.last, one], "positions.row")
        return add(g, start, offsets, "positions"), last

    def _counted(self) -> ir.Value:
        """`last`.

        GroupQueryAttention uses only the number of real tokens in each row, so a row with padding before one of them
        would be computed wrongly without an error. A guard prevents this: the 1 that is subtracted from the count is
        reshaped to a width that is [1] only if the mask is right, and fails in every runtime if it is not. (An
        out-of-range Gather would not do: on a GPU it returns 0.)

        Where the last token of a row follows the others without a gap, the count is 1 more than its column, and less
        otherwise. This must hold for all rows of a prompt. Later calls also get masks in which a row's padding in the
        prompt is a gap, but only if another row had none.
        """
        g, one, two = self._g, self._g.ints(1, name="one"), self._g.ints(2, name="two")
        count = g.node("ReduceSum", [self.mask, one], "mask.count", attributes={"keepdims": 0})
        places = {"axis": 1, "keepdims": 0, "select_last_index": 1}
        dense = g.node("Sub", [count, g.node("ArgMax", [self.mask], "mask.place", attributes=places)], "mask.dense")
        least, most = (
            g.node(operator, [dense], f"mask.{name}", attributes={"keepdims": 1})
            for operator, name in (("ReduceMin", "least_dense"), ("ReduceMax", "most_dense"))
        )
        is_later = g.node("Less", [self._width, self._total], "mask.is_later")
        wanted = g.node("Where", [is_later, most, least], "mask.wanted")
        width = g.node("Sub", [two, wanted], "mask.guard_width")
        guarded = g.node("Reshape", [one, width], MASK_GUARD, attributes={"allowzero": 1})
        return g.node("Sub", [count, guarded], "mask.last")


class CudaTokens(FusedTokens):
    """Finds the tokens of a call without a value that the host must wait for, and without guards."""

    @cached_property
    def _width(self) -> ir.Value:
        """The number of tokens of a call, padding included, int64 [batch_size], without asking the host.

        A one and a zero are counted for each token, because ONNX Runtime copies what a sum of single numbers would be.
        """
        g = self._g
        bounds = np.array([[[np.iinfo(np.int64).max]], [[np.iinfo(np.int64).min]]])
        below = g.node("Less", [self._ids, g.constant("bounds", bounds)], "input_ids.below")
        counts = cast(g, below, ir.DataType.INT64, "input_ids.counts")
        return g.node(
            "ReduceSum", [counts, g.ints(0, 2, name="axes_0_2")], "input_ids.width", attributes={"keepdims": 0}
        )

    @cached_property
    def _positions(self) -> tuple[ir.Value, ir.Value]:
        g, one = self._g, self._g.ints(1, name="one")
        last = g.node("Unsqueeze", [self.last, one], "positions.row")
        counted = self._columns
        width = g.node("Unsqueeze", [self._width, one], "positions.width")
        start = g.node("Sub", [last, width], "positions.start")
        # A prompt padded on the right starts at 0.
        start = g.node("Max", [start, g.ints(-1, name="before")], "positions.before")
        return add(g, start, counted, "positions"), last

    def _counted(self) -> ir.Value:
        one = self._g.ints(1, name="one")
        count = self._g.node("ReduceSum", [self.mask, one], "mask.count", attributes={"keepdims": 0})
        return self._g.node("Sub", [count, one], "mask.last")
