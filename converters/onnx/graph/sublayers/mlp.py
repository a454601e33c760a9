"""Emits the MLP of each layer, or its shared expert."""

from __future__ import annotations

import onnx_ir as ir

from converters.onnx.graph.kind import KindWriter
from seap_export.model.families import Mlp, SharedExpert


class MlpWriter(KindWriter):
    """Emits the MLPs of all layers."""

    def product(self, index: int, x: ir.Value) -> ir.Value:
        mlp = self._spec.layers[index][Mlp]
        return self._linears.output(mlp, index, self._activations(index, mlp, x))

    def _activations(self, index: int, mlp: Mlp, x: ir.Value) -> ir.Value:
        name = f"layers.{index}.{mlp.label}"
        *gates, up = (self._linears.projection(mlp, one, index, x, f"{name}.{one}") for one in mlp.readers)
        if not gates:
            return self._dialect.activated(mlp.activation, up, f"{name}.activated")
        (gate,) = gates
        return self._dialect.gated(mlp.activation, gate, up, mlp.channels, f"{name}.gated")


class SharedWriter(KindWriter):
    """Emits the shared experts of all layers."""

    def product(self, index: int, x: ir.Value) -> ir.Value:
        shared, name = self._spec.layers[index][SharedExpert], f"layers.{index}.{SharedExpert.label}"
        read = (self._linears.projection(shared, reader, index, x, f"{name}.{reader}") for reader in shared.readers)
        *scales, gate, up = read
        channels = self._dialect.gated(shared.activation, gate, up, shared.channels, f"{name}.gated")
        for product in scales:
            scale = self._g.node("Sigmoid", [product], f"{name}.scale")
            channels = self._g.node("Mul", [channels, scale], f"{name}.channels")
        return self._linears.output(shared, index, channels)
