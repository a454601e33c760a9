"""Emits the state of convolutions, in every dialect."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from converters.onnx.graph.graph import GraphBuilder
from converters.onnx.graph.operators import Kernels, add
from converters.onnx.graph.tokens import Tokens


def swapped(g: GraphBuilder, x: ir.Value, name: str) -> ir.Value:
    """Transposes [batch_size, a, b] to [batch_size, b, a]."""
    return g.node("Transpose", [x], name, attributes={"perm": [0, 2, 1]})


class ConvolutionStates:
    """Emits the values that kernels, which have one size in all layers, see in the next call.

    Layers with as many channels share the indices that these are read from.
    """

    def __init__(self, g: GraphBuilder, tokens: Tokens) -> None:
        self._g, self._tokens = g, tokens
        self._row: ir.Value | None = None
        self._indices: dict[int, ir.Value] = {}

    def joined(self, past: ir.Value, values: ir.Value, name: str) -> ir.Value:
        """The values that kernels see in this call: the state before it and its own, both [batch_size, channels,
        ...].
        """
        return self._g.node("Concat", [past, values], name, attributes={"axis": 2})

    def after(self, joined: ir.Value, kernels: Kernels, name: str) -> ir.Value:
        """The last values up to each row's last token, [batch_size, channels, size - 1]; no padding is among them."""
        if kernels.channels not in self._indices:
            self._indices[kernels.channels] = self._expanded(kernels.channels, kernels.size - 1)
        return self._g.node("GatherElements", [joined, self._indices[kernels.channels]], name, attributes={"axis": 2})

    def _expanded(self, channels: int, length: int) -> ir.Value:
        g, label = self._g, "convolution.places"
        if self._row is None:
            axes = g.ints(1, 2, name="axes_1_2")
            first = g.node("Unsqueeze", [self._tokens.ends, axes], f"{label}.first_{length}")
            steps = g.constant(f"steps_{length}", np.arange(length, dtype=np.int64).reshape(1, 1, -1))
            self._row = add(g, first, steps, f"{label}.row_{length}")
        shape = g.ints(1, channels, 1, name=f"channels_{channels}")
        return g.node("Expand", [self._row, shape], f"{label}_{channels}_{length}")
