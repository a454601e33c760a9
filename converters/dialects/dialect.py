"""What a dialect gives the decoder: the operators that dialects write differently."""

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
    """The operators of one graph, whose inputs and rotary caches it was opened with."""

    @property
    def cache(self) -> str:
        """How a cache grows: "shared" in the buffer that it came in, "appended" as a new, longer one."""

    def silu(self, x: ir.Value, name: str) -> ir.Value:
        """`x * sigmoid(x)`."""

    def tied_head(self, x: ir.Value, table: ir.Value, name: str) -> ir.Value:
        """`x @ table.T`, with `table` [vocab_size, hidden_size] stored once for embedding and LM head."""

    def add_and_norm(
        self, x: ir.Value, residual: ir.Value, gamma: ir.Value, epsilon: float, name: str, bias: ir.Value | None
    ) -> tuple[ir.Value, ir.Value]:
        """The RMS norm of `x + residual + bias`, and that sum: the residual stream from here on."""

    def attention(
        self, qkv: Sequence[ir.Value], past: KeyValues, layer: LayerSpec, head_dim: int, name: str
    ) -> Attended:
        """Causal attention with rotation and cache.

        Args:
            qkv: Queries, keys and values side by side in one value, or as three, [batch_size, sequence_length, ...].
            past: The cache of the tokens before.
            layer: Its heads and its sliding window.
            head_dim: Width of a head.
            name: Name of the node.
        """

    def last_places(self) -> ir.Value:
        """Where in this call each row's last real token stands, int64 [batch_size]."""


def open_dialect(
    name: DialectName,
    g: GraphBuilder,
    ids: ir.Value,
    mask: ir.Value,
    cos_cache: ir.Value,
    sin_cache: ir.Value,
) -> Dialect:
    """A dialect for one graph.

    Args:
        name: Which.
        g: The graph.
        ids: int64 [batch_size, sequence_length].
        mask: int64 [batch_size, total_sequence_length], 1 for real tokens, cached and new.
        cos_cache: [max_position_embeddings, head_dim / 2].
        sin_cache: [max_position_embeddings, head_dim / 2].
    """
    kind = FusedDialect if name == "fused" else StandardDialect
    return kind(g, ids, mask, cos_cache, sin_cache)
