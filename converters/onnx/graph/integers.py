"""ONNX Runtime's product of integers: each row of a weight has one scale, and each token of what it multiplies.

A token's values, divided by the largest of them, are rounded to 8 bits; the product is of integers, and times that
largest value in the end (Xiao et al. 2023, arXiv 2211.10438, and what is called W8A8 since). A token of zeros divides
by zero, and gives zeros, as whatever integers that makes are times zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from converters.onnx.graph import operators as op
from converters.onnx.graph.graph import MS_DOMAIN, GraphBuilder
from converters.onnx.weights.weights import QuantizedTensors

#: The level of zero, and the levels on either side of it. Only unsigned activations have fast kernels on x86.
_MIDDLE, _LEVELS = 128, 127


@dataclass
class IntegerProducts:
    """Emits products of integers; what several weights multiply is rounded once."""

    _g: GraphBuilder
    _rounded: dict[ir.Value, tuple[ir.Value, ir.Value]] = field(default_factory=dict, init=False)

    def product(
        self, x: ir.Value, tensors: QuantizedTensors, shape: tuple[int, int], name: str, bias: ir.Value | None = None
    ) -> ir.Value:
        """`x @ weight.T + bias`.

        Args:
            x: float32 [batch_size, sequence_length, in].
            tensors: The weight: its levels, and the scale or step of each of its rows, [out].
            bias: float32 [out].
        """
        g, label = self._g, f"{name}.unbiased" if bias is not None else name
        levels, largest = self._levels(x)
        scales = g.node("Cast", [g.initializer(tensors.scales)], f"{tensors.scales.name}.wide", attributes={"to": 1})
        # asked for exact products on processors that add up in 16 bits, ONNX Runtime replaces the weight and its zero
        zero = g.constant(f"{tensors.packed.name}.zero", np.array(0, np.int8))
        inputs = [levels, self._weight(tensors, shape), self._step, scales, self._middle, zero]
        integers = g.node("MatMulIntegerToFloat", inputs, f"{name}.integers", domain=MS_DOMAIN)
        product = op.multiply(g, integers, largest, label)
        return product if bias is None else op.add(g, product, bias, name)

    def _weight(self, tensors: QuantizedTensors, shape: tuple[int, int]) -> ir.Value:
        """The weight in steps of its rows, int8 [in, out].

        Where blocks have steps of their own, nodes on constants multiply their levels by them. ONNX Runtime computes
        that once, when it opens the file, and keeps what each of these nodes gives until the last: so they are few.
        """
        g, packed = self._g, self._g.initializer(tensors.packed)
        if tensors.steps is None:
            return packed
        (rows, columns), name = shape, str(packed.name)
        levels = g.node("Cast", [packed], f"{name}.wide", attributes={"to": ir.DataType.INT8})
        whole = g.node("Mul", [levels, g.initializer(tensors.steps)], f"{name}.products")
        whole = g.node("Reshape", [whole, g.ints(-1, rows)], f"{name}.columns")
        if columns % tensors.packed.shape.numpy()[1] == 0:
            return whole
        return g.node("Slice", [whole, g.ints(0), g.ints(columns), g.ints(0)], f"{name}.integers")

    def _levels(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The levels of tokens, uint8, and the largest absolute value of each, [batch_size, sequence_length, 1]."""
        if x not in self._rounded:
            g, name = self._g, x.name
            sizes = g.node("Abs", [x], f"{name}.sizes")
            largest = g.node("ReduceMax", [sizes, g.ints(-1)], f"{name}.largest", attributes={"keepdims": 1})
            shares = g.node("Div", [x, largest], f"{name}.shares")
            levels = g.node("QuantizeLinear", [shares, self._step, self._middle], f"{name}.levels")
            self._rounded[x] = levels, largest
        return self._rounded[x]

    @property
    def _step(self) -> ir.Value:
        return self._g.constant("level_step", np.array(1 / _LEVELS, np.float32))

    @property
    def _middle(self) -> ir.Value:
        return self._g.constant("level_of_zero", np.array(_MIDDLE, np.uint8))


def in_floats(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes in the place of one that rounds activations, or that multiplies integers, which compute in floats."""
    name, inputs, make = node.name, node.input, onnx.helper.make_node
    if node.op_type == "QuantizeLinear":
        zero = make("Sub", [inputs[1], inputs[1]], [f"{name}.zero"], f"{name}.zero")
        lacks = make("IsNaN", [inputs[0]], [f"{name}.lacks"], f"{name}.lacks")  # a token of zeros
        return [zero, lacks, make("Where", [lacks.output[0], zero.output[0], inputs[0]], node.output, name)]
    # DequantizeLinear and MatMul are what ONNX Runtime turns into a product that rounds activations
    levels = make("Cast", [inputs[1]], [f"{name}.floats"], f"{name}.floats", to=onnx.TensorProto.FLOAT)
    weight = make("Mul", [levels.output[0], inputs[3]], [f"{name}.weight"], f"{name}.weight")
    return [levels, weight, make("MatMul", [inputs[0], weight.output[0]], node.output, name)]
