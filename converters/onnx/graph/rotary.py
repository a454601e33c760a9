"""The rotary tables of a graph: one for each rotation that its layers have."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
import torch

from converters.onnx.graph.graph import GraphBuilder
from converters.onnx.graph.operators import add, cast, multiply
from converters.onnx.graph.tokens import Tokens
from converters.onnx.precision import Precision
from converters.onnx.weights.weights import lazy_tensor
from seap_export.model.families import ModelSpec, RopeSpec
from seap_export.model.layers.sublayers.rotary import rotary_tables

#: The beginning of the names of nodes that fail on too many tokens; the runtime's error message quotes it.
LENGTH_GUARD = "more_tokens_than_the_model_has_positions"


class RotaryTables:
    """Cosines and sines, [rows, rope.dim / 2] each, in the dtype of the precision.

    A row holds a position. Longrope has two tables in one: that of inputs up to `switches_at`, with as many rows,
    and behind it that of longer inputs.
    """

    def __init__(self, g: GraphBuilder, spec: ModelSpec, precision: Precision) -> None:
        self._g, self.precision = g, precision
        self.positions = spec.max_position_embeddings
        self._ropes = spec.ropes
        self._caches = [(self._table("cos", number), self._table("sin", number)) for number in range(len(self._ropes))]
        self._rows: dict[int, ir.Value] = {}

    def caches(self, rope: RopeSpec) -> tuple[ir.Value, ir.Value]:
        """The tables of cosines and sines of a rotation."""
        return self._caches[self._ropes.index(rope)]

    def attributes(self, rope: RopeSpec, heads: int, head_dim: int) -> dict[str, int]:
        """The attributes of a RotaryEmbedding node, of the standard or of ONNX Runtime."""
        attributes = {"num_heads": heads}
        if rope.interleaved:
            attributes["interleaved"] = 1
        if rope.dim < head_dim:
            attributes["rotary_embedding_dim"] = rope.dim
        return attributes

    def switch(self, rope: RopeSpec) -> int | None:
        """The length of an input above which the second table counts; None: there is one table."""
        switch = rope.switches_at
        return switch if switch is not None and switch < self.positions else None

    def rows(self, rope: RopeSpec, tokens: Tokens, *, is_guarded: bool = True) -> ir.Value:
        """The rows of tokens, int64 [batch_size, sequence_length].

        As in transformers, all tokens of a call use the table that the length of the input after this call decides on.
        Not all runtimes check that RotaryEmbedding does not read past its tables. With a guard, a token beyond the
        model's positions fails in every runtime, because a number is reshaped to [0]; without, it gets the last row.
        """
        number = self._ropes.index(rope)
        if number not in self._rows:
            g, name, switch = self._g, f"rows_{number}", self.switch(rope) or 0
            positions, last = tokens.positions, tokens.row_last
            start = skipped = g.ints(switch, name=f"{name}.start")
            if is_guarded:
                skipped = self._guarded(start, last, name)
            else:
                positions = self._within(positions, name)
            if switch:
                is_long = g.node("GreaterOrEqual", [last, start], f"{name}.is_long")
                factor = cast(g, is_long, ir.DataType.INT64, f"{name}.factor")
                skipped = multiply(g, factor, skipped, f"{name}.skipped")
            self._rows[number] = add(g, positions, skipped, name) if is_guarded or switch else positions
        return self._rows[number]

    def learned_rows(self, offset: int, tokens: Tokens, *, is_guarded: bool = True) -> ir.Value:
        """The rows of tokens in an embedding of positions that begins at row `offset`; otherwise as `rows`."""
        positions, start = tokens.positions, self._g.ints(offset, name="positions.offset")
        if is_guarded:
            start = self._guarded(start, tokens.row_last, "positions")
        else:
            positions = self._within(positions, "positions")
        return add(self._g, positions, start, "positions.rows")

    def _within(self, positions: ir.Value, name: str) -> ir.Value:
        """Replaces positions beyond the last one by the last one."""
        end = self._g.ints(self.positions - 1, name="last_row")
        return self._g.node("Min", [positions, end], f"{name}.within")

    def _guarded(self, number: ir.Value, last: ir.Value, name: str) -> ir.Value:
        """`number`, [1], if the last token of every row has a position."""
        g = self._g
        limit, axis = g.ints(self.positions, name="max_positions"), g.ints(0, name="first_axis")
        largest = g.node("ReduceMax", [last, axis], f"{name}.largest", attributes={"keepdims": 0})
        fits = cast(g, g.node("Less", [largest, limit], f"{name}.fits"), ir.DataType.INT64, f"{name}.guard_width")
        guard = f"{LENGTH_GUARD}_{name.removeprefix('rows_')}"
        return g.node("Reshape", [number, fits], guard, attributes={"allowzero": 1})

    def _table(self, kind: str, number: int) -> ir.Value:
        rope, side = self._ropes[number], 0 if kind == "cos" else 1
        switch, positions, dtype = self.switch(rope), self.positions, self.precision.torch_dtype

        def read() -> Iterator[torch.Tensor]:
            if switch is None:
                yield rotary_tables(rope, positions)[side].to(dtype)
            else:
                yield rotary_tables(rope, switch)[side].to(dtype)
                yield rotary_tables(rope, positions, long=True)[side].to(dtype)

        shape = (positions + (switch or 0), rope.dim // 2)
        name = f"{kind}_cache" if number == 0 else f"{kind}_cache.{number}"
        return self._g.initializer(lazy_tensor(name, shape, read, self.precision.onnx_dtype))
