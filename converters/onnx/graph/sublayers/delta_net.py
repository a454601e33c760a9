"""The gated delta net of each layer: products, convolution, the dialect's recurrence, and the gated norm."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from converters.onnx.graph import operators as op
from converters.onnx.graph.graph import Dims
from converters.onnx.graph.sublayers.recurrent_states import CLOSED, RecurrentStates
from seap_export.model.families import DeltaNet, names

#: What is added to the square of the length of queries and keys.
_LENGTH_EPSILON = 1e-6


class DeltaNetWriter(RecurrentStates):
    """Emits the gated delta nets of all layers."""

    def _dims(self, index: int) -> tuple[Dims, Dims]:
        net = self._spec.layers[index][DeltaNet]
        state: Dims = ["batch_size", net.linear_num_value_heads, net.key_head_dim, net.value_head_dim]
        return ["batch_size", net.convolved, net.kernel_size - 1], state

    def product(self, index: int, x: ir.Value) -> ir.Value:
        g, net, name = self._g, self._spec.layers[index][DeltaNet], f"layers.{index}.{DeltaNet.label}"
        widths = net.widths()
        packed = self._linears.joined(net, index, x, f"{name}.in_proj_qkvz")
        qkv, gate = op.split(g, packed, [widths[part] for part in net.readers[:2]], f"{name}.split", ["qkv", "z"])
        numbers = self._linears.joined(net, index, x, f"{name}.in_proj_ba")
        output = self._recurred(index, net, self._convolved(index, net, qkv, name), numbers, name)
        gain = g.initializer(self._weights.stored(names.tensor("delta_norm", index)))
        epsilon = self._spec.norm.epsilon
        channels = self._dialect.gated_norm(output, gain, gate, net.value_head_dim, epsilon, f"{name}.channels")
        return self._linears.output(net, index, channels)

    def _convolved(self, index: int, net: DeltaNet, qkv: ir.Value, name: str) -> ir.Value:
        """Queries, keys and values, [batch_size, sequence_length, channels of all]."""
        kernel = self._g.initializer(self._weights.stored(names.tensor("delta_kernel", index)))
        kernels = op.Kernels(kernel, None, net.convolved, net.kernel_size, activates=True)
        convolved = self._dialect.convolution(qkv, self.conv[index], kernels, f"{name}.convolution")
        self.conv[index] = convolved.present
        return convolved.output

    def _recurred(self, index: int, net: DeltaNet, qkv: ir.Value, numbers: ir.Value, name: str) -> ir.Value:
        """The output of the recurrence, [batch_size, sequence_length, value heads * value_head_dim]."""
        g, heads = self._g, net.linear_num_value_heads
        widths, labels = [net.keys, net.keys, net.channels], ["query", "key", "value"]
        query, key, value = op.split(g, qkv, widths, f"{name}.qkv", labels)
        query, key = (
            self._of_length_1(net, part, f"{name}.{label}") for part, label in ((query, "query"), (key, "key"))
        )
        closed = g.constant("closed", np.array(CLOSED, self._dtype.numpy()))
        numbers = g.node("Where", [self._dialect.tokens.real, numbers, closed], f"{name}.numbers")
        rate, decay = op.split(g, numbers, [heads, heads], f"{name}.numbers.split", ["rate", "decay"])
        a_log, bias = (
            g.initializer(self._weights.exact(names.tensor(part, index))) for part in ("delta_a_log", "delta_dt_bias")
        )
        factor = g.node("Neg", [g.node("Exp", [a_log], f"{name}.a")], f"{name}.factor")
        decay, update = self._dialect.decays(decay, bias, factor, rate, f"{name}.gates")
        sizes = (net.linear_num_key_heads, heads, net.key_head_dim, net.value_head_dim, net.key_head_dim**-0.5)
        parts = op.Recurrence(query, key, value, decay, update, *sizes)
        recurred = self._dialect.recurrence(parts, self.recurrent[index], f"{name}.recurrence")
        self.recurrent[index] = recurred.present
        return recurred.output

    def _of_length_1(self, net: DeltaNet, x: ir.Value, name: str) -> ir.Value:
        """Queries or keys whose heads have the length 1: an RMS norm with that gain."""
        width = net.key_head_dim
        gain = self._g.constant(f"length_1_of_{width}", np.full(width, width**-0.5, self._dtype.numpy()))
        heads = op.split_heads(self._g, x, (0, 0, -1, width), f"{name}.split")
        normed = self._dialect.head_norm(heads, gain, _LENGTH_EPSILON / width, f"{name}.normed")
        return op.split_heads(self._g, normed, (0, 0, -1), f"{name}.join")
