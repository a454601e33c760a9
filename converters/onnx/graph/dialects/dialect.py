"""The interface of a dialect: the operators that dialects write differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import onnx_ir as ir

from converters.onnx.graph.dialects.cuda import CudaDialect
from converters.onnx.graph.dialects.fused import FusedDialect
from converters.onnx.graph.dialects.mixtures import ExpertWeights, Routed
from converters.onnx.graph.dialects.standard import StandardDialect
from converters.onnx.graph.dialects.webgpu import WebGpuDialect
from converters.onnx.graph.graph import GraphBuilder
from converters.onnx.graph.operators import Attended, Convolved, Kernels, KeyValues, Norm, Recurred, Recurrence
from converters.onnx.graph.rotary import RotaryTables
from converters.onnx.graph.tokens import Tokens
from seap_export.common.providers import PROVIDERS, Device, DialectName
from seap_export.model.families import Attention, Experts, RopeSpec
from seap_export.model.families.sublayers import Activation

#: The fused operators as providers whose tensors lie there run them best.
_FUSED: Mapping[Device, type[FusedDialect]] = {"cpu": FusedDialect, "cuda": CudaDialect, "webgpu": WebGpuDialect}


class Dialect(Protocol):
    """The operators of one graph, bound to its inputs and rotary tables."""

    @property
    def tokens(self) -> Tokens:
        """Where the tokens of this call are."""

    @property
    def cache(self) -> str:
        """How the cache grows: "shared" (in its buffer) or "appended" (as a new, longer tensor)."""

    @property
    def state_dtype(self) -> ir.DataType:
        """The dtype of the state of a recurrence."""

    def activated(self, kind: Activation, x: ir.Value, name: str) -> ir.Value:
        """`x` through an activation function."""

    def gated(self, kind: Activation, gate: ir.Value, up: ir.Value, width: int, name: str) -> ir.Value:
        """`up` times the activation of `gate`; both have `width` channels."""

    def experts(self, experts: Experts, x: ir.Value, routed: Routed, weights: ExpertWeights, name: str) -> ir.Value:
        """The output of a mixture of experts, [batch_size, sequence_length, hidden_size].

        Args:
            x: The input of the experts, [batch_size, sequence_length, hidden_size].
            routed: The router's products.
        """

    def poisoned(self, x: ir.Value, name: str) -> ir.Value:
        """`x` [batch_size, length, hidden_size], made infinite or NaN in rows that the dialect computes wrongly."""

    def tied_head(self, x: ir.Value, table: ir.Value, name: str) -> ir.Value:
        """`x @ table.T`, where `table` [vocab_size, hidden_size] is stored once for the embedding and the LM head."""

    def add_and_norm(
        self, x: ir.Value, residual: ir.Value, norm: Norm, bias: ir.Value | None
    ) -> tuple[ir.Value, ir.Value]:
        """The norm of `x + residual + bias`, and that sum, which is the new residual stream."""

    def head_norm(self, x: ir.Value, gamma: ir.Value, epsilon: float, name: str) -> ir.Value:
        """The RMS norm over the last axis of queries or keys, [batch_size, sequence_length, heads, head_dim].

        One over all heads gets [batch_size, sequence_length, heads * head_dim].
        """

    def attention_rotates(self, rope: RopeSpec, head_dim: int) -> bool:
        """Whether `attention` can rotate queries and keys in this way."""

    def rotated(self, x: ir.Value, attention: Attention, heads: int, name: str) -> ir.Value:
        """Queries or keys of attention that rotates, [batch_size, sequence_length, heads * head_dim]."""

    def position_rows(self, offset: int) -> ir.Value:
        """The rows of this call's tokens in an embedding of positions that begins at row `offset`."""

    def attention(
        self,
        qkv: Sequence[ir.Value],
        past: KeyValues,
        attention: Attention,
        name: str,
        sinks: ir.Value | None = None,
    ) -> Attended:
        """Causal attention with rotary embedding and KV cache.

        Args:
            qkv: Queries, keys and values, [batch_size, sequence_length, ...]; packed into one value, or three values.
            past: The cache of the previous tokens.
            attention: Gives heads, sliding window and rotation, and the scale and the soft cap of the scores.
            sinks: The sink of each head, [heads], if it has them.
        """

    def attention_to(self, query: ir.Value, cache: KeyValues, attention: Attention, name: str) -> ir.Value:
        """Causal attention to keys and values of another layer, which the cache holds with those of this call.

        Args:
            query: Rotated, [batch_size, sequence_length, heads * head_dim].
            cache: The other layer's, after this call.
            attention: Gives heads, sliding window and scale.
        """

    def convolution(self, x: ir.Value, past: ir.Value, kernels: Kernels, name: str) -> Convolved:
        """A causal, depth-wise convolution with a state; padding changes neither results nor state.

        Args:
            x: [batch_size, sequence_length, channels].
            past: The values that the kernels see before those of this call, [batch_size, channels, size - 1].
        """

    def recurrence(self, parts: Recurrence, past: ir.Value, name: str) -> Recurred:
        """A recurrence over the tokens in float32, from the state of the previous ones on.

        Args:
            parts: Inputs of the recurrence. At padding, decay and rate are 0, so that it leaves the state as it is.
            past: The state, [batch_size, heads, key_dim, value_dim].
        """

    def decays(
        self, x: ir.Value, bias: ir.Value, factor: ir.Value, rate: ir.Value | None, name: str
    ) -> tuple[ir.Value, ir.Value | None]:
        """factor * softplus(x + bias), and the sigmoid of `rate`, if it is given.

        Args:
            x: [batch_size, sequence_length, heads].
            bias: float32 [heads].
            factor: float32 [heads].
            rate: [batch_size, sequence_length, heads].
        """

    def gated_norm(
        self, x: ir.Value, gain: ir.Value, gate: ir.Value, width: int, epsilon: float, name: str
    ) -> ir.Value:
        """The RMS norms of groups of `width` channels of `x`, times SiLU of the gate.

        Both are [batch_size, sequence_length, channels].
        """


#: Makes a dialect for one graph, with its tokens int64 [batch_size, sequence_length], its mask int64 [batch_size,
#: total_sequence_length], which is 1 for real tokens, cached and new, and its rotary tables.
DialectType = Callable[[GraphBuilder, ir.Value, ir.Value, RotaryTables], Dialect]


def dialect_of(name: DialectName, provider: str) -> DialectType:
    """The dialect of this name as an execution provider runs it best."""
    return StandardDialect if name == "standard" else _FUSED[PROVIDERS[provider].device]
