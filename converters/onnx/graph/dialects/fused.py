"""ONNX Runtime's fused operators: the fewest nodes, and caches updated in place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from converters.onnx.graph import operators as op
from converters.onnx.graph.dialects.convolved import ConvolutionStates, swapped
from converters.onnx.graph.dialects.fused_tokens import FusedTokens
from converters.onnx.graph.dialects.looped import is_looped, looped_experts
from converters.onnx.graph.dialects.mixtures import OF_ROUNDED, ExpertWeights, Routed, fused_experts
from converters.onnx.graph.graph import MS_DOMAIN, GraphBuilder
from converters.onnx.graph.rotary import RotaryTables
from seap_export.model.families import Attention, Experts, RopeSpec
from seap_export.model.families.sublayers import Activation

#: GroupQueryAttention rotates only heads whose size, and whose number of rotated channels, is a multiple of this.
_ROTATED_MULTIPLE = 16
#: Numbers that share a block of threads in `FusedDialect._gated_by_norm`; a smaller block is slower than two kernels.
_MOST_CHANNELS, _LEAST_CHANNELS = 256, 32
#: Exponents of the scale there, within the range of each dtype.
_SCALES = {"fp32": 30, "bf16": 30, "fp16": 15}


class FusedDialect:
    """com.microsoft operators; see `converters.onnx.graph.dialects.Dialect`."""

    cache = "shared"
    state_dtype = ir.DataType.FLOAT
    tokens_type: type[FusedTokens] = FusedTokens
    of_rounded_experts: Mapping[str, int] = OF_ROUNDED

    def __init__(self, g: GraphBuilder, ids: ir.Value, mask: ir.Value, tables: RotaryTables) -> None:
        self._g, self._tables = g, tables
        self.tokens = self.tokens_type(g, ids, mask)
        self._states = ConvolutionStates(g, self.tokens)

    def gated(self, kind: Activation, gate: ir.Value, up: ir.Value, width: int, name: str) -> ir.Value:
        channels = math.gcd(width, _MOST_CHANNELS)
        if kind in ("silu", "sigmoid") and channels >= _LEAST_CHANNELS and self._gates_by_norm(kind):
            return self._gated_by_norm(kind, gate, up, channels, name)
        return op.multiply(self._g, self.activated(kind, gate, name.replace("gated", kind)), up, name)

    def activated(self, kind: Activation, x: ir.Value, name: str) -> ir.Value:
        """QuickGelu is `x * sigmoid(alpha * x)`, FastGelu the tanh approximation of GELU."""
        match kind:
            case "silu":
                return self._g.node("QuickGelu", [x], name, domain=MS_DOMAIN, attributes={"alpha": 1.0})
            case "gelu_tanh":
                return self._g.node("FastGelu", [x], name, domain=MS_DOMAIN)
            case _:
                return op.activation(self._g, kind, x, name)

    def experts(self, experts: Experts, x: ir.Value, routed: Routed, weights: ExpertWeights, name: str) -> ir.Value:
        """A single node, where there is one that computes them."""
        if is_looped(experts):
            return looped_experts(self._g, experts, x, routed, weights, name)
        return fused_experts(self._g, experts, x, routed, weights, name, self.of_rounded_experts)

    def tied_head(self, x: ir.Value, table: ir.Value, name: str) -> ir.Value:
        """A product without a transposed copy of the table."""
        return self._g.node("FusedMatMul", [x, table], name, domain=MS_DOMAIN, attributes={"transB": 1})

    def add_and_norm(
        self, x: ir.Value, residual: ir.Value, norm: op.Norm, bias: ir.Value | None
    ) -> tuple[ir.Value, ir.Value]:
        inputs = [x, residual, norm.gain, *([norm.bias] if norm.is_centred else []), bias]
        while inputs[-1] is None:
            inputs.pop()
        normed, _, _, stream = self._g.node_with_outputs(
            "SkipLayerNormalization" if norm.is_centred else "SkipSimplifiedLayerNormalization",
            inputs,
            norm.name,
            ["output", "", "", "residual"],
            domain=MS_DOMAIN,
            attributes={"epsilon": norm.epsilon},
        )
        return normed, stream

    def head_norm(self, x: ir.Value, gamma: ir.Value, epsilon: float, name: str) -> ir.Value:
        return op.rms_norm(self._g, x, gamma, epsilon, name)

    def attention_rotates(self, rope: RopeSpec, head_dim: int) -> bool:
        """False where longrope has two tables: on CUDA, GroupQueryAttention skips positions beyond the cache."""
        is_aligned = head_dim % _ROTATED_MULTIPLE == 0 and rope.dim % _ROTATED_MULTIPLE == 0
        return is_aligned and self._tables.switch(rope) is None

    def rotated(self, x: ir.Value, attention: Attention, heads: int, name: str) -> ir.Value:
        rope = attention.rope
        assert rope is not None
        inputs = [x, self._rows(rope), *self._tables.caches(rope)]
        attributes = self._tables.attributes(rope, heads, attention.head_dim)
        return self._g.node("RotaryEmbedding", inputs, f"{name}.rotated", domain=MS_DOMAIN, attributes=attributes)

    def position_rows(self, offset: int) -> ir.Value:
        """Guarded, since a GPU would read past the table."""
        return self._tables.learned_rows(offset, self.tokens)

    def attention(
        self,
        qkv: Sequence[ir.Value],
        past: op.KeyValues,
        attention: Attention,
        name: str,
        sinks: ir.Value | None = None,
    ) -> op.Attended:
        """ONNX Runtime 1.23 lets a query see one position more than the window; 1.24 and later are exact."""
        query, key, value = qkv if len(qkv) == 3 else (qkv[0], None, None)
        attributes = self._attributes(attention)
        tables = (None, None) if attention.rope is None else self._tables.caches(attention.rope)
        output, present_key, present_value = self._g.node_with_outputs(
            "GroupQueryAttention",
            [query, key, value, past.key, past.value, *self.tokens.lengths, *tables, None, None, sinks],
            name,
            ["output", "present_key", "present_value"],
            domain=MS_DOMAIN,
            attributes=attributes,
        )
        return op.Attended(output, op.KeyValues(present_key, present_value))

    def attention_to(self, query: ir.Value, cache: op.KeyValues, attention: Attention, name: str) -> ir.Value:
        """GroupQueryAttention with no keys and values to be added to the cache, whose buffer it only reads."""
        g, width = self._g, attention.num_key_value_heads * attention.head_dim
        start, end = g.ints(0, 0, name="starts"), g.ints(0, width, name=f"none_of_{width}")
        axes = g.ints(1, 2, name="axes_1_2")
        nothing = g.node("Slice", [query, start, end, axes], f"{name}.nothing")
        inputs = [query, nothing, nothing, cache.key, cache.value, *self.tokens.lengths]
        attributes = self._attributes(replace(attention, rope=None))
        return g.node("GroupQueryAttention", inputs, name, domain=MS_DOMAIN, attributes=attributes)

    def convolution(self, x: ir.Value, past: ir.Value, kernels: op.Kernels, name: str) -> op.Convolved:
        """A single node and its transposed input and output; the state that it gives counts padding, too."""
        values = swapped(self._g, x, f"{name}.channels_first")
        output, _ = self._g.node_with_outputs(
            "CausalConvWithState",
            [values, kernels.weight, kernels.bias, past],
            name,
            ["output", "state_of_last_columns"],
            domain=MS_DOMAIN,
            attributes={"activation": "silu"} if kernels.activates else {},
        )
        joined = self._states.joined(past, values, f"{name}.joined")
        present = self._states.after(joined, kernels, f"{name}.present")
        return op.Convolved(swapped(self._g, output, f"{name}.channels_last"), present)

    def recurrence(self, parts: op.Recurrence, past: ir.Value, name: str) -> op.Recurred:
        inputs = [parts.query, parts.key, parts.value, past, parts.decay, parts.rate]
        output, present = self._g.node_with_outputs(
            "LinearAttention",
            inputs if parts.rate is not None else inputs[:-1],
            name,
            ["output", "present"],
            domain=MS_DOMAIN,
            attributes={
                "q_num_heads": parts.groups,
                "kv_num_heads": parts.heads,
                "update_rule": "gated" if parts.rate is None else "gated_delta",
                "scale": parts.scale,
            },
        )
        return op.Recurred(output, present)

    def decays(
        self, x: ir.Value, bias: ir.Value, factor: ir.Value, rate: ir.Value | None, name: str
    ) -> tuple[ir.Value, ir.Value | None]:
        inputs, outputs = [x, bias, factor, rate], ["decay", "rate"]
        number = len(inputs) if rate is not None else -1
        values = self._g.node_with_outputs(
            "LinearAttentionGate", inputs[:number], name, outputs[: 1 + (rate is not None)], domain=MS_DOMAIN
        )
        return values[0], None if rate is None else values[1]

    def gated_norm(
        self, x: ir.Value, gain: ir.Value, gate: ir.Value, width: int, epsilon: float, name: str
    ) -> ir.Value:
        """Computes in float32, whatever the dtype of the graph."""
        attributes = {"activation": "silu", "epsilon": epsilon}
        return self._g.node("GatedRMSNorm", [x, gain, gate], name, domain=MS_DOMAIN, attributes=attributes)

    def poisoned(self, x: ir.Value, name: str) -> ir.Value:
        """Returns `x`, since guards fail before anything is computed."""
        return x

    def _rows(self, rope: RopeSpec) -> ir.Value:
        return self._tables.rows(rope, self.tokens)

    def _gates_by_norm(self, kind: Activation) -> bool:
        """Whether the kernel of GatedRMSNorm takes the place of those of an activation and a product."""
        return False

    def _gated_by_norm(self, kind: Activation, gate: ir.Value, up: ir.Value, channels: int, name: str) -> ir.Value:
        """SiLU or sigmoid and the product in one kernel, which computes in float32.

        GatedRMSNorm is `up / sqrt(mean(up^2) + epsilon) * scale * activation(gate)`. With a scale of 2^s and an
        epsilon of 4^s the mean does not count: it changes the result by mean(up^2) / 2^(2 s + 1), which is far below
        the rounding of the dtype. The mean is taken over as many channels as share a block of threads.
        """
        dtype, exponent = self._tables.precision.onnx_dtype, _SCALES[self._tables.precision.dtype]
        scale = self._g.constant(f"gate_scale_{channels}", np.full(channels, 2.0**exponent, dtype.numpy()))
        attributes = {"activation": kind, "epsilon": 4.0**exponent}
        return self._g.node("GatedRMSNorm", [up, scale, gate], name, domain=MS_DOMAIN, attributes=attributes)

    def _attributes(self, attention: Attention) -> Mapping[str, Any]:
        attributes: dict[str, Any] = {
            "num_heads": attention.num_attention_heads,
            "kv_num_heads": attention.num_key_value_heads,
            "do_rotary": int(attention.rope is not None),
            "rotary_interleaved": int(attention.rope is not None and attention.rope.interleaved),
            "scale": attention.scale,
        }
        if attention.sliding_window is not None:
            attributes["local_window_size"] = attention.sliding_window
        if attention.softcap is not None:
            attributes["softcap"] = attention.softcap
        return attributes
