"""Only operators of the ONNX standard, opset 23, for every runtime that implements it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from converters.onnx.graph import operators as op
from converters.onnx.graph.dialects.convolved import ConvolutionStates, swapped
from converters.onnx.graph.dialects.elementary import elementary_attention
from converters.onnx.graph.dialects.mixtures import ExpertWeights, Routed, standard_experts
from converters.onnx.graph.dialects.recurrent import scanned
from converters.onnx.graph.dialects.standard_tokens import StandardTokens
from converters.onnx.graph.graph import GraphBuilder
from converters.onnx.graph.rotary import RotaryTables
from seap_export.model.families import Attention, Experts, RopeSpec
from seap_export.model.families.sublayers import Activation


class StandardDialect:
    """Attention-23, RotaryEmbedding-23, RMSNormalization-23; see `converters.onnx.graph.dialects.Dialect`."""

    cache = "appended"
    state_dtype = ir.DataType.FLOAT

    def __init__(self, g: GraphBuilder, ids: ir.Value, mask: ir.Value, tables: RotaryTables) -> None:
        self._g, self._tables = g, tables
        self.tokens = StandardTokens(g, ids, mask, tables.precision.onnx_dtype)
        self._states = ConvolutionStates(g, self.tokens)

    def gated(self, kind: Activation, gate: ir.Value, up: ir.Value, width: int, name: str) -> ir.Value:
        return op.multiply(self._g, self.activated(kind, gate, name.replace("gated", kind)), up, name)

    def activated(self, kind: Activation, x: ir.Value, name: str) -> ir.Value:
        """SiLU is two nodes, because Swish needs opset 24."""
        if kind == "silu":
            return op.multiply(self._g, x, self._g.node("Sigmoid", [x], f"{name}.sigmoid"), name)
        return op.activation(self._g, kind, x, name)

    def experts(self, experts: Experts, x: ir.Value, routed: Routed, weights: ExpertWeights, name: str) -> ir.Value:
        """Computes every expert for every token: the standard has no operator that leaves experts out."""

        def activated(gate: ir.Value, label: str) -> ir.Value:
            return self.activated(experts.activation, gate, label)

        return standard_experts(self._g, experts, x, routed, weights, activated, name)

    def poisoned(self, x: ir.Value, name: str) -> ir.Value:
        """Returns `x`, since padding may be anywhere."""
        return x

    def tied_head(self, x: ir.Value, table: ir.Value, name: str) -> ir.Value:
        """Emits Gemm, which reads a matrix transposed without a copy but accepts only two dimensions."""
        g = self._g
        vocab_size, hidden_size = (int(size) for size in table.shape.numpy())  # type: ignore[union-attr]
        rows = g.node("Reshape", [x, g.ints(-1, hidden_size, name="rows_shape")], f"{name}.rows")
        logits = g.node("Gemm", [rows, table], f"{name}.gemm", attributes={"transB": 1})
        outer = g.node("Shape", [x], f"{name}.outer", attributes={"end": 2})
        width = g.ints(vocab_size, name="vocab_size")
        return g.node(
            "Reshape", [logits, g.node("Concat", [outer, width], f"{name}.shape", attributes={"axis": 0})], name
        )

    def add_and_norm(
        self, x: ir.Value, residual: ir.Value, norm: op.Norm, bias: ir.Value | None
    ) -> tuple[ir.Value, ir.Value]:
        written = x if bias is None else op.add(self._g, x, bias, f"{norm.name}.bias_add")
        stream = op.add(self._g, residual, written, f"{norm.name}.residual")
        return op.normed(self._g, stream, norm), stream

    def head_norm(self, x: ir.Value, gamma: ir.Value, epsilon: float, name: str) -> ir.Value:
        return op.rms_norm(self._g, x, gamma, epsilon, name)

    def attention_rotates(self, rope: RopeSpec, head_dim: int) -> bool:
        return True

    def rotated(self, x: ir.Value, attention: Attention, heads: int, name: str) -> ir.Value:
        rope = attention.rope
        assert rope is not None
        switches = self._tables.switch(rope) is not None
        rows = self._tables.rows(rope, self.tokens) if switches else self.tokens.positions
        inputs = [x, *self._tables.caches(rope), rows]
        attributes = self._tables.attributes(rope, heads, attention.head_dim)
        return self._g.node("RotaryEmbedding", inputs, f"{name}.rotated", attributes=attributes)

    def position_rows(self, offset: int) -> ir.Value:
        return self._tables.learned_rows(offset, self.tokens)

    def attention(
        self,
        qkv: Sequence[ir.Value],
        past: op.KeyValues,
        attention: Attention,
        name: str,
        sinks: ir.Value | None = None,
    ) -> op.Attended:
        """Rotates queries and keys before the cache, which holds rotated keys."""
        heads, kv_heads = attention.num_attention_heads, attention.num_key_value_heads
        if len(qkv) == 1:
            qkv = op.split(
                self._g, qkv[0], list(attention.widths().values()), f"{name}.split", ["query", "key", "value"]
            )
        query, key, value = qkv
        if attention.rope is not None:
            query = self.rotated(query, attention, heads, f"{name}.query")
            key = self.rotated(key, attention, kv_heads, f"{name}.key")
        visible = self.tokens.visible(attention.sliding_window)
        if not attention.is_usual_softmax:
            return elementary_attention(self._g, (query, key, value), past, visible, attention, name, sinks)
        output, present_key, present_value = self._g.node_with_outputs(
            "Attention",
            [query, key, value, visible, past.key, past.value],
            name,
            ["output", "present_key", "present_value"],
            attributes={
                "q_num_heads": heads,
                "kv_num_heads": kv_heads,
                "scale": attention.scale,
                "softmax_precision": int(ir.DataType.FLOAT),
            },
        )
        return op.Attended(output, op.KeyValues(present_key, present_value))

    def attention_to(self, query: ir.Value, cache: op.KeyValues, attention: Attention, name: str) -> ir.Value:
        """Emits Attention on four dimensions, which the cache has."""
        g, heads, width = self._g, attention.num_attention_heads, attention.head_dim
        visible = self.tokens.visible(attention.sliding_window)
        attributes = {"scale": attention.scale, "softmax_precision": int(ir.DataType.FLOAT)}
        swap = {"perm": (0, 2, 1, 3)}
        query = op.split_heads(g, query, (0, 0, heads, width), f"{name}.query.split")
        query = g.node("Transpose", [query], f"{name}.query.heads", attributes=swap)
        inputs = [query, cache.key, cache.value, visible]
        attended = g.node("Attention", inputs, f"{name}.by_head", attributes=attributes)
        attended = g.node("Transpose", [attended], f"{name}.by_token", attributes=swap)
        return op.split_heads(g, attended, (0, 0, heads * width), name)

    def convolution(self, x: ir.Value, past: ir.Value, kernels: op.Kernels, name: str) -> op.Convolved:
        """Conv over the state and the values, which are 0 at padding: a row that begins with it sees zeros before."""
        g = self._g
        values = swapped(g, op.multiply(g, x, self.tokens.real_factor, f"{name}.real"), f"{name}.channels_first")
        joined = self._states.joined(past, values, f"{name}.joined")
        inputs = [joined, kernels.weight, kernels.bias]
        output = g.node("Conv", inputs if kernels.bias else inputs[:2], name, attributes={"group": kernels.channels})
        present = self._states.after(joined, kernels, f"{name}.present")
        output = self.activated("silu", output, f"{name}.silu") if kernels.activates else output
        return op.Convolved(swapped(g, output, f"{name}.channels_last"), present)

    def recurrence(self, parts: op.Recurrence, past: ir.Value, name: str) -> op.Recurred:
        return scanned(self._g, parts, past, self._tables.precision.onnx_dtype, name)

    def decays(
        self, x: ir.Value, bias: ir.Value, factor: ir.Value, rate: ir.Value | None, name: str
    ) -> tuple[ir.Value, ir.Value | None]:
        g = self._g
        shifted = op.add(g, op.cast(g, x, ir.DataType.FLOAT, f"{name}.float32"), bias, f"{name}.shifted")
        decay = op.multiply(g, g.node("Softplus", [shifted], f"{name}.softplus"), factor, f"{name}.decay")
        return decay, None if rate is None else g.node("Sigmoid", [rate], f"{name}.rate")

    def gated_norm(
        self, x: ir.Value, gain: ir.Value, gate: ir.Value, width: int, epsilon: float, name: str
    ) -> ir.Value:
        heads = op.split_heads(self._g, x, (0, 0, -1, width), f"{name}.split")
        normed = op.rms_norm(self._g, heads, gain, epsilon, f"{name}.normed")
        joined = op.split_heads(self._g, normed, (0, 0, -1), f"{name}.join")
        return self.gated("silu", gate, joined, width, f"{name}.gated")
