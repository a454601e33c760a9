"""The short convolution of each layer: the product with its input, the gates, and the dialect's convolution."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from converters.onnx.graph import operators as op
from converters.onnx.graph.graph import Dims
from converters.onnx.graph.kind import KindWriter
from seap_export.model.families import Convolution, names


@dataclass(eq=False)
class ConvolutionWriter(KindWriter):
    """Emits the short convolutions of all layers."""

    _states: dict[int, ir.Value] = field(default_factory=dict, init=False)

    def open(self, index: int) -> None:
        """Declares the values of earlier tokens that a layer's kernels still see, by ONNX Runtime GenAI's name."""
        self._states[index] = self._g.input(f"past.{index}.conv", self._dtype, self._dims(index))

    def close(self, index: int) -> None:
        self._g.output(self._states[index], f"present.{index}.conv", self._dtype, self._dims(index))

    def _dims(self, index: int) -> Dims:
        convolution = self._spec.layers[index][Convolution]
        return ["batch_size", convolution.conv_dim, convolution.kernel_size - 1]

    def product(self, index: int, x: ir.Value) -> ir.Value:
        return self._linears.output(self._spec.layers[index][Convolution], index, self._convolved(index, x))

    def _convolved(self, index: int, x: ir.Value) -> ir.Value:
        """One product [batch_size, sequence_length, 3 * channels], convolved between two gates."""
        g, convolution, name = self._g, self._spec.layers[index][Convolution], f"layers.{index}.{Convolution.label}"
        widths = list(convolution.widths().values())
        packed = self._linears.joined(convolution, index, x, f"{name}.in_proj")
        before, after, values = op.split(g, packed, widths, f"{name}.in_proj.split", convolution.readers)
        kernel, bias = (
            self._g.initializer(self._weights.stored(names.tensor(part, index)))
            if part in convolution.inner_tensors()
            else None
            for part in ("kernel", "kernel_bias")
        )
        assert kernel is not None
        gated = op.multiply(g, before, values, f"{name}.gated")
        convolved = self._dialect.convolution(
            gated,
            self._states[index],
            op.Kernels(kernel, bias, convolution.conv_dim, convolution.kernel_size),
            f"{name}.convolution",
        )
        self._states[index] = convolved.present
        return op.multiply(g, after, convolved.output, f"{name}.channels")
