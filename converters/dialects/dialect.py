"""The interface of a dialect: the operators that dialects write differently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import onnx_ir as ir

from converters.dialects.fused import FusedDialect
from converters.dialects.standard import StandardDialect
from converters.graph import GraphBuilder
from converters.operators import Attended, KeyValues
from seap_export.families import LayerSpec

__all__ = ["Dialect", "DialectName", "open_dialect"]

DialectName = Literal["fused", "standard"]


class Dialect(Protocol):
    """The operators of one graph, bound to its inputs and rotary caches."""

    @property
    def cache(self) -> str:
        """How the cache grows: "shared" (in its buffer) or "appended" (as a new, longer tensor)."""

    def silu(self, x: ir.Value, name: str) -> ir.Value:
        """`x * sigmoid(x)`."""

    def tied_head(self, x: ir.Value, table: ir.Value, name: str) -> ir.Value:
        """`x @ table.T`, where `table` [vocab_size, hidden_size] is stored once for the embedding and the LM head."""

    def add_and_norm(
        self, x: ir.Value, residual: ir.Value, gamma: ir.Value, epsilon: float, name: str, bias: ir.Value | None
    ) -> tuple[ir.Value, ir.Value]:
        """The RMS norm of `x + residual + bias`, and that sum, which is the new residual stream."""

    def attention(
        self, qkv: Sequence[ir.Value], past: KeyValues, layer: LayerSpec, head_dim: int, name: str
    ) -> Attended:
        """Causal attention with rotary embedding and KV cache.

        Args:
            qkv: Queries, keys and values, [batch_size, sequence_length, ...]; packed into one value, or three values.
            past: The cache of the previous tokens.
            layer: Gives the head counts and the sliding window.
            head_dim: Size of a head.
            name: Name of the node.
        """

    def last_places(self) -> ir.Value:
        """Position of each row's last real token in this call, int64 [batch_size]."""


def open_dialect(
    name: DialectName,
    g: GraphBuilder,
    ids: ir.Value,
    mask: ir.Value,
    cos_cache: ir.Value,
    sin_cache: ir.Value,
) -> Dialect:
    """Creates a dialect for one graph.

    Args:
        name: Name of the dialect.
        g: The graph.
        ids: int64 [batch_size, sequence_length].
        mask: int64 [batch_size, total_sequence_length], 1 for real tokens, cached and new.
        cos_cache: [max_position_embeddings, head_dim / 2].
        sin_cache: [max_position_embeddings, head_dim / 2].
    """
    kind = FusedDialect if name == "fused" else StandardDialect
    return kind(g, ids, mask, cos_cache, sin_cache)
