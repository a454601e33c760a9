"""Finds the tokens of a call, and the keys that they see, if padding may be anywhere."""

from __future__ import annotations

from functools import cached_property

import onnx_ir as ir

from converters.onnx.graph.graph import GraphBuilder
from converters.onnx.graph.operators import add, cast, multiply

#: Name of the node that fails on a gap between the tokens of a call; the runtime's error message quotes it.
HOLES_GUARD = "mask_with_holes_is_not_supported_by_convolutions"


class StandardTokens:
    """Padding may be anywhere; a position is the number of real tokens before.

    A decode step appends its token after all earlier positions, padding included, with a 1 at the end of each row of
    the mask.
    """

    def __init__(self, g: GraphBuilder, ids: ir.Value, mask: ir.Value, dtype: ir.DataType) -> None:
        self._g, self._mask, self._dtype = g, mask, dtype
        self._total = self._length(mask, "mask.total")
        self._past = g.node("Sub", [self._total, self._length(ids, "input_ids.length")], "past_length")
        self._all_positions = self._counted()
        self.positions = self._new_columns(self._all_positions, "position_ids")
        self._causal = self._before()
        self._windows: dict[int, ir.Value] = {}

    @cached_property
    def row_last(self) -> ir.Value:
        axis = self._g.ints(1, name="one")
        return self._g.node("ReduceMax", [self.positions, axis], "row_last", attributes={"keepdims": 1})

    @cached_property
    def real(self) -> ir.Value:
        g, axis = self._g, self._g.ints(2, name="last_axis")
        real = cast(g, self._new_mask, ir.DataType.BOOL, "input_ids.are_real")
        return g.node("Unsqueeze", [real, axis], "input_ids.which_real")

    @cached_property
    def real_factor(self) -> ir.Value:
        """1 for each real token and 0 for padding, in the dtype of the graph, [batch_size, sequence_length, 1]."""
        g = self._g
        narrow = cast(g, self._new_mask, self._dtype, "input_ids.is_real")
        return g.node("Unsqueeze", [narrow, g.ints(2, name="last_axis")], "input_ids.real")

    @cached_property
    def is_step(self) -> ir.Value:
        g = self._g
        one, axes, none = g.ints(1, name="one"), g.ints(1, 2, name="axes_1_2"), g.ints(0, name="none")
        length = g.node("Sub", [self._total, self._past], "input_ids.columns")
        is_single = g.node("Equal", [length, one], "input_ids.is_single")
        follows = g.node("Greater", [self._past, none], "input_ids.follows")
        return g.node("Unsqueeze", [g.node("And", [is_single, follows], "input_ids.is_step"), axes], "is_step")

    @cached_property
    def last_columns(self) -> ir.Value:
        return self._largest(self._columns, "last_token.place")

    @cached_property
    def ends(self) -> ir.Value:
        """0 for a row without a token in this call, which keeps its state.

        Only convolutions ask for them, whose kernels would see zeros in a gap between tokens; there a guard fails.
        """
        g, axis, none = self._g, self._g.ints(1, name="one"), self._g.ints(0, name="none")
        numbers = add(g, self._columns, axis, "last_token.numbers")
        ends = self._largest(numbers, "last_token.columns")
        back = self._largest(g.node("Sub", [self._length_of_call, self._columns], "holes.back"), "holes.most_back")
        count = g.node("ReduceSum", [self._new_mask, axis], "holes.count", attributes={"keepdims": 0})
        gaps = g.node(
            "Sub", [ends, count], "holes.gaps"
        )  # and padding before the first token, which only prompts have
        before = g.node("Sub", [self._length_of_call, back], "holes.before")
        is_prompt = g.node("Equal", [self._past, none], "holes.is_prompt")
        allowed = g.node("Where", [is_prompt, before, none], "holes.allowed")
        wrong = cast(g, g.node("Greater", [gaps, allowed], "holes.are_there"), ir.DataType.INT64, "holes.wrong")
        most = g.node("ReduceMax", [wrong, none], "holes.most", attributes={"keepdims": 1})
        width = add(g, most, axis, "holes.guard_width")
        guarded = g.node("Reshape", [none, width], HOLES_GUARD, attributes={"allowzero": 1})
        return add(g, ends, guarded, "last_token.guarded_columns")

    def visible(self, window: int | None) -> ir.Value:
        """The keys that each token sees: bool [batch_size, 1, sequence_length, total_sequence_length].

        With a window those less than so many positions back; layers with the same window share one mask.
        """
        if window is None:
            return self._causal
        if window not in self._windows:
            g, width = self._g, self._g.ints(window, name=f"window_{window}")
            start = g.node("Sub", [self.positions, width], f"queries.window_{window}")
            axes_of_queries, axes_of_keys = g.ints(1, 3, name="axes_1_3"), g.ints(1, 2, name="axes_1_2")
            queries = g.node("Unsqueeze", [start, axes_of_queries], f"queries.start_{window}")
            keys = g.node("Unsqueeze", [self._all_positions, axes_of_keys], f"keys.positions_{window}")
            near = g.node("Greater", [keys, queries], f"keys.window_{window}")
            self._windows[window] = g.node("And", [self._causal, near], f"visible.window_{window}")
        return self._windows[window]

    def _before(self) -> ir.Value:
        """Padding sees itself; otherwise its softmax would be empty and give NaN."""
        g = self._g
        zero, one = g.integer(0, "first"), g.integer(1, "step")
        end = self._scalar(self._total, "mask.end")
        keys = g.node("Range", [zero, end, one], "keys")
        flat = g.node("Range", [self._scalar(self._past, "queries.start"), end, one], "queries.flat")
        queries = g.node("Unsqueeze", [flat, g.ints(1, name="one")], "queries")
        axes = g.ints(1, 2, name="axes_1_2")
        real = g.node("Unsqueeze", [cast(g, self._mask, ir.DataType.BOOL, "mask.real"), axes], "keys.real")
        before = g.node("LessOrEqual", [keys, queries], "keys.before")
        itself = g.node("Equal", [keys, queries], "keys.itself")
        return g.node("Or", [g.node("And", [real, before], "keys.real_before"), itself], "visible")

    def _counted(self) -> ir.Value:
        """Number of real tokens before each column of the mask, per row; int64 like the mask."""
        g = self._g
        one = g.ints(1, name="one")
        counted = g.node("CumSum", [self._mask, g.integer(1, "step")], "mask.counted")
        before = g.node("Sub", [counted, one], "mask.before")
        return g.node("Max", [before, g.ints(0, name="none")], "mask.positions")

    @cached_property
    def _new_mask(self) -> ir.Value:
        """The columns of this call, int64 [batch_size, sequence_length]."""
        return self._new_columns(self._mask, "last_token.mask")

    @cached_property
    def _columns(self) -> ir.Value:
        """0, 1, ... for the columns of this call, int64 [sequence_length]."""
        g = self._g
        zero, one = g.integer(0, "first"), g.integer(1, "step")
        return g.node("Range", [zero, self._scalar(self._length_of_call, "last_token.end"), one], "last_token.places")

    @cached_property
    def _length_of_call(self) -> ir.Value:
        """The number of columns of this call, int64 [1]."""
        return self._g.node("Sub", [self._total, self._past], "last_token.length")

    def _largest(self, numbers: ir.Value, name: str) -> ir.Value:
        """The largest number of each row's real columns, int64 [batch_size]; 0 where there are none."""
        counted = multiply(self._g, self._new_mask, numbers, f"{name}.counted")
        axis = self._g.ints(1, name="one")
        return self._g.node("ReduceMax", [counted, axis], name, attributes={"keepdims": 0})

    def _new_columns(self, x: ir.Value, name: str) -> ir.Value:
        """The columns of this call, out of [batch_size, total_sequence_length]."""
        return self._g.node("Slice", [x, self._past, self._total, self._g.ints(1, name="one")], name)

    def _length(self, x: ir.Value, name: str) -> ir.Value:
        return self._g.node("Shape", [x], name, attributes={"start": 1, "end": 2})

    def _scalar(self, x: ir.Value, name: str) -> ir.Value:
        return self._g.node("Squeeze", [x], name)
