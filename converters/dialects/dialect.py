"""The interface of a dialect: the operators that dialects write differently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import onnx_ir as ir

from converters.dialects.fused import FusedDialect
from converters.dialects.standard import StandardDialect
from converters.graph import GraphBuilder
from converters.operators import Attended, KeyValues
from converters.rotary import RotaryTables
from seap_export.families import BlockSpec, LayerSpec, RopeSpec
from seap_export.families.spec import Activation

__all__ = ["Dialect", "DialectName", "open_dialect"]

DialectName = Literal["fused", "standard"]


class Dialect(Protocol):
    """The operators of one graph, bound to its inputs and rotary tables."""

    @property
    def cache(self) -> str:
        """How the cache grows: "shared" (in its buffer) or "appended" (as a new, longer tensor)."""

    def activation(self, kind: Activation, x: ir.Value, name: str) -> ir.Value:
        """`x * sigmoid(x)`, or the tanh approximation of GELU."""

    def tied_head(self, x: ir.Value, table: ir.Value, name: str) -> ir.Value:
        """`x @ table.T`, where `table` [vocab_size, hidden_size] is stored once for the embedding and the LM head."""

    def add_and_norm(
        self, x: ir.Value, residual: ir.Value, gamma: ir.Value, epsilon: float, name: str, bias: ir.Value | None
    ) -> tuple[ir.Value, ir.Value]:
        """The RMS norm of `x + residual + bias`, and that sum, which is the new residual stream."""

    def attention_rotates(self, rope: RopeSpec, head_dim: int) -> bool:
        """Whether `attention` can do this rotation."""

    def rotated(self, x: ir.Value, rope: RopeSpec, heads: int, name: str) -> ir.Value:
        """Queries or keys [batch_size, sequence_length, heads * head_dim], rotated."""

    def positions(self) -> ir.Value:
        """The position of each token of this call, int64 [batch_size, sequence_length]."""

    def attention(
        self, qkv: Sequence[ir.Value], past: KeyValues, layer: LayerSpec, block: BlockSpec, head_dim: int, name: str
    ) -> Attended:
        """Causal attention with rotary embedding and KV cache.

        Args:
            qkv: Queries, keys and values, [batch_size, sequence_length, ...]; packed into one value, or three values.
            past: The cache of the previous tokens.
            layer: Gives the head counts, the sliding window and the rotation.
            block: Gives the scale and the soft cap of the scores.
            head_dim: Size of a head.
            name: Name of the node.
        """

    def last_places(self) -> ir.Value:
        """Position of each row's last real token in this call, int64 [batch_size]."""


def open_dialect(name: DialectName, g: GraphBuilder, ids: ir.Value, mask: ir.Value, tables: RotaryTables) -> Dialect:
    """Creates a dialect for one graph.

    Args:
        name: Name of the dialect.
        g: The graph.
        ids: int64 [batch_size, sequence_length].
        mask: int64 [batch_size, total_sequence_length], 1 for real tokens, cached and new.
        tables: The rotary tables of the graph.
    """
    kind = FusedDialect if name == "fused" else StandardDialect
    return kind(g, ids, mask, tables)
