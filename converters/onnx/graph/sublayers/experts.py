"""Emits the mixtures of experts, and says how their matrices lie in a graph."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir
import torch

from converters.onnx.graph import operators as op
from converters.onnx.graph.blocks import QuantizedWeight
from converters.onnx.graph.dialects.mixtures import ExpertWeights, Matrix, Routed
from converters.onnx.graph.kind import KindWriter
from converters.onnx.weights.weights import StackedLayout
from seap_export.model.families import Experts, names


def expert_matrices(
    experts: Experts, layer: int, hidden_size: int
) -> tuple[tuple[list[str], str, StackedLayout], tuple[list[str], str, StackedLayout]]:
    """The matrices of a layer's experts in a graph: the weights that they are made of, their name and their layout.

    The rows of gate and up take turns in the first; the second is that of the output projection.
    """
    gate, up, output = (names.weight(projection, layer) for projection in names.ROUTED[1:])
    number, width = experts.num_experts, experts.moe_intermediate_size
    turns = StackedLayout(
        (number, 2 * width, hidden_size),
        lambda parts: torch.stack(parts, 1).flatten(0, 1),
        lambda matrix: list(matrix.unflatten(0, (-1, 2)).unbind(1)),
    )
    columns = StackedLayout(
        (number, hidden_size, width),
        lambda parts: parts[0].unflatten(1, (number, width)).transpose(0, 1).flatten(0, 1),
        lambda matrix: [matrix.unflatten(0, (number, hidden_size)).transpose(0, 1).flatten(1)],
    )
    return ([gate, up], gate.replace("gate_proj", "gate_up_proj"), turns), ([output], output, columns)


def expert_biases(experts: Experts, layer: int) -> tuple[list[str], str, StackedLayout] | None:
    """The biases of gate and up, [experts, out], as `expert_matrices` gives the matrices; None: there are none."""
    if "experts_gate_proj" not in experts.biases:
        return None
    gate, up = (names.bias(projection, layer) for projection in names.ROUTED[1:3])
    turns = StackedLayout(
        (experts.num_experts, 2 * experts.moe_intermediate_size),
        lambda parts: torch.stack(parts, 1).flatten(),
        lambda rows: list(rows.unflatten(0, (-1, 2)).unbind(1)),
    )
    return [gate, up], gate.replace("gate_proj", "gate_up_proj"), turns


@dataclass(eq=False)
class ExpertsWriter(KindWriter):
    """Emits the mixtures of experts of all layers."""

    _routed_by: ir.Value | None = field(default=None, init=False)

    def route(self, x: ir.Value) -> None:
        """Sets the input of the next router, if it is not that of the experts."""
        self._routed_by = x

    def product(self, index: int, x: ir.Value) -> ir.Value:
        experts, name = self._spec.layers[index][Experts], f"layers.{index}.{Experts.label}"
        router = names.weight("router", index)  # never quantised: it is small, and decides
        table = self._g.initializer(self._weights.transposed([router], f"{router}.transposed"))
        has_bias = "router" in experts.biases
        added = self._g.initializer(self._weights.stored(names.bias("router", index))) if has_bias else None
        read, self._routed_by = self._routed_by, None
        logits = op.matmul(self._g, x if read is None else read, table, f"{name}.router", added)
        logits = op.scaled(self._g, logits, experts.factors.get("router", 1.0), self._dtype, f"{name}.router_scaled")
        flat = self._g.ints(-1, experts.num_experts, name=f"shape_experts_{experts.num_experts}")
        logits = self._g.node("Reshape", [logits, flat], f"{name}.logits")
        bias, scale = (
            self._g.initializer(self._weights.exact(names.tensor(inner, index)))
            if inner in experts.inner_tensors()
            else None
            for inner in ("selection_bias", "expert_scale")
        )
        routed = Routed(logits, self._dtype, bias, scale)
        return self._dialect.experts(
            experts, x, routed, self._expert_weights(index, experts), f"{name}.{experts.output}"
        )

    def _expert_weights(self, index: int, experts: Experts) -> ExpertWeights:
        biases, added = expert_biases(experts, index), None
        if experts.output_bias:
            added = self._g.initializer(self._weights.stored(names.tensor("experts_output_bias", index)))
        before = None if biases is None else self._g.initializer(self._weights.stacked(*biases))
        return ExpertWeights(*self._matrices(index, experts), before, added)

    def _matrices(self, index: int, experts: Experts) -> tuple[Matrix, Matrix]:
        hidden_size, grid = self._spec.hidden_size, self._weights.precision.quantization
        named = expert_matrices(experts, index, hidden_size)
        if grid is None or not experts.rounded(hidden_size, grid.block_size):
            first, second = (self._g.initializer(self._weights.stacked(*matrix)) for matrix in named)
            return first, second
        quantized, other = (
            QuantizedWeight.of(
                self._g, self._weights.quantized(*matrix), matrix[2].shape, self._weights.grid(matrix[0]), self._dtype
            )
            for matrix in named
        )
        return quantized, other
