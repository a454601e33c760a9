"""Mamba-2 of each layer: the product, the convolution, the dialect's recurrence, the gate and the norm."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from converters.onnx.graph import operators as op
from converters.onnx.graph.graph import Dims
from converters.onnx.graph.sublayers.recurrent_states import CLOSED, RecurrentStates
from seap_export.model.families import Mamba, names


class MambaWriter(RecurrentStates):
    """Emits Mamba-2 of all layers."""

    def _dims(self, index: int) -> tuple[Dims, Dims]:
        mamba = self._spec.layers[index][Mamba]
        state: Dims = ["batch_size", mamba.mamba_n_heads, mamba.state_size, mamba.head_dim]
        return ["batch_size", mamba.convolved, mamba.kernel_size - 1], state

    def product(self, index: int, x: ir.Value) -> ir.Value:
        g, mamba, name = self._g, self._spec.layers[index][Mamba], f"layers.{index}.{Mamba.label}"
        packed = self._linears.joined(mamba, index, x, f"{name}.in_proj")
        widths = [mamba.channels, mamba.convolved, mamba.mamba_n_heads]
        gate, seen, steps = op.split(g, packed, widths, f"{name}.split", ["gate", "seen", "steps"])
        steps = self._bounded(index, mamba, steps, name) if mamba.least_step else steps
        closed = g.constant("closed", np.array(CLOSED, self._dtype.numpy()))
        steps = g.node("Where", [self._dialect.tokens.real, steps, closed], f"{name}.steps")
        channels = self._recurred(index, mamba, self._convolved(index, mamba, seen, name), steps, name)
        return self._linears.output(mamba, index, self._gated(index, mamba, channels, gate, name))

    def _convolved(self, index: int, mamba: Mamba, seen: ir.Value, name: str) -> ir.Value:
        kernel = self._tensor("mamba_kernel", index)
        bias = self._tensor("mamba_kernel_bias", index) if mamba.has_kernel_bias else None
        kernels = op.Kernels(kernel, bias, mamba.convolved, mamba.kernel_size, activates=True)
        convolved = self._dialect.convolution(seen, self.conv[index], kernels, f"{name}.convolution")
        self.conv[index] = convolved.present
        return convolved.output

    def _recurred(self, index: int, mamba: Mamba, seen: ir.Value, steps: ir.Value, name: str) -> ir.Value:
        """The output of the recurrence, plus the values times d, [batch_size, sequence_length, channels].

        The time steps are those that the decay is made of: its factor is divided out.
        """
        g, heads = self._g, mamba.mamba_n_heads
        widths, labels = [mamba.channels, mamba.keys, mamba.keys], ["values", "b", "c"]
        values, key, query = op.split(g, seen, widths, f"{name}.seen", labels)
        a_log, bias = (
            g.initializer(self._weights.exact(names.tensor(part, index))) for part in ("mamba_a_log", "mamba_dt_bias")
        )
        factor = g.node("Neg", [g.node("Exp", [a_log], f"{name}.a")], f"{name}.factor")
        decay, _ = self._dialect.decays(steps, bias, factor, None, f"{name}.decays")
        decay32 = op.cast(g, decay, ir.DataType.FLOAT, f"{name}.times.float32")
        times = g.node("Div", [decay32, factor], f"{name}.times")
        times = op.cast(g, times, self._dtype, f"{name}.times.narrow")
        by_head = op.split_heads(g, values, (0, 0, heads, mamba.head_dim), f"{name}.by_head")
        axis = g.ints(3, name="axis_3")
        written = op.multiply(
            g, by_head, g.node("Unsqueeze", [times, axis], f"{name}.times.column"), f"{name}.written"
        )
        written = op.split_heads(g, written, (0, 0, mamba.channels), f"{name}.written.join")
        sizes = (mamba.mamba_n_groups, heads, mamba.state_size, mamba.head_dim, 1.0)
        parts = op.Recurrence(query, key, written, decay, None, *sizes)
        recurred = self._dialect.recurrence(parts, self.recurrent[index], f"{name}.recurrence")
        self.recurrent[index] = recurred.present
        last = g.ints(1, name="last_axis_of_1")
        d = g.node("Unsqueeze", [self._tensor("mamba_d", index), last], f"{name}.d")
        through = op.split_heads(
            g, op.multiply(g, by_head, d, f"{name}.through"), (0, 0, mamba.channels), f"{name}.through.join"
        )
        return op.add(g, recurred.output, through, f"{name}.sum")

    def _bounded(self, index: int, mamba: Mamba, steps: ir.Value, name: str) -> ir.Value:
        """Bounds the time steps from below, before softplus, except in calls of a single token after others."""
        g, least = self._g, mamba.least_step
        bias = g.initializer(self._weights.exact(names.tensor("mamba_dt_bias", index)))
        inverse = g.constant("mamba.least_step", np.array(math.log(math.expm1(least)), np.float32))
        bounds = g.node("Sub", [inverse, bias], f"{name}.steps.bounds")
        bounds = op.cast(g, bounds, self._dtype, f"{name}.steps.bounds.narrow")
        closed = g.constant("closed", np.array(CLOSED, self._dtype.numpy()))
        bounds = g.node("Where", [self._dialect.tokens.is_step, closed, bounds], f"{name}.steps.least")
        return g.node("Max", [steps, bounds], f"{name}.steps.bounded")

    def _gated(self, index: int, mamba: Mamba, x: ir.Value, gate: ir.Value, name: str) -> ir.Value:
        x = self._normed(index, mamba, x, f"{name}.normed") if mamba.norm == "before_gate" else x
        gated = self._dialect.gated("silu", gate, x, mamba.channels, f"{name}.gated")
        return self._normed(index, mamba, gated, f"{name}.channels") if mamba.norm == "after_gate" else gated

    def _normed(self, index: int, mamba: Mamba, x: ir.Value, name: str) -> ir.Value:
        """The RMS norm of each group, whose gains differ."""
        gain, epsilon, groups = self._tensor("mamba_norm", index), self._spec.norm.epsilon, mamba.mamba_n_groups
        if groups == 1:
            return self._dialect.head_norm(x, gain, epsilon, name)
        width = mamba.channels // groups
        ones = self._g.constant(f"ones_{width}", np.ones(width, self._dtype.numpy()))
        split = op.split_heads(self._g, x, (0, 0, groups, width), f"{name}.split")
        normed = self._dialect.head_norm(split, ones, epsilon, f"{name}.groups")
        return op.multiply(self._g, op.split_heads(self._g, normed, (0, 0, -1), f"{name}.join"), gain, name)

    def _tensor(self, name: str, index: int) -> ir.Value:
        return self._g.initializer(self._weights.stored(names.tensor(name, index)))
