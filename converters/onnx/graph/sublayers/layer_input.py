"""Emits the inputs of layers: their table, which all layers share, and the sublayer that adds them in each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import onnx_ir as ir

from converters.onnx.graph import operators as op
from converters.onnx.graph.kind import KindWriter
from converters.onnx.weights.scaling import Scaling, scaled_epsilon
from seap_export.model.families import LayerInput, names


@dataclass(eq=False)
class LayerInputWriter(KindWriter):
    """Emits the sublayers that add inputs of layers. `embed` comes before all products."""

    _inputs: tuple[ir.Value, ...] = field(default=(), init=False)

    def embed(self, ids: ir.Value, embedded: ir.Value, scaling: Scaling) -> None:
        """Emits the inputs of all layers, given tokens [batch_size, sequence_length] and their embeddings."""
        g, number, layers = self._g, self._spec.layer_inputs, len(self._spec.layers)
        table, projection, norm = (names.tensor(name) for name in names.INPUT_TABLES)
        of_token = self._linears.embedding(table, ids, "layer_inputs")
        of_token = op.scaled(g, of_token, (number / 2) ** 0.5, self._dtype, "layer_inputs.multiplied")
        product = self._linears.product(
            embedded, [projection], "layer_inputs_proj", stored_as=projection, is_rounded=False
        )
        product = op.scaled(g, product, self._spec.hidden_size**-0.5, self._dtype, "layer_inputs_proj.multiplied")
        heads = op.split_heads(g, product, (0, 0, layers, number), "layer_inputs_norm.split")
        gain = g.initializer(self._weights.stored(norm))
        epsilon = scaled_epsilon(self._spec.norm.epsilon, scaling.stream)
        normed = self._dialect.head_norm(heads, gain, epsilon, "layer_inputs_norm")
        of_embedding = op.split_heads(g, normed, (0, 0, layers * number), "layer_inputs_norm.join")
        of_embedding = op.scaled(g, of_embedding, math.sqrt(0.5), self._dtype, "layer_inputs_norm.multiplied")
        both = op.add(g, of_embedding, of_token, "layer_inputs.sum")
        labels = [str(index) for index in range(layers)]
        self._inputs = op.split(g, both, [number] * layers, "layer_inputs.of_layers", labels)

    def product(self, index: int, x: ir.Value) -> ir.Value:
        gated = self._spec.layers[index][LayerInput]
        name, (reader,) = f"layers.{index}.{gated.label}", gated.readers
        gate = self._linears.projection(gated, reader, index, x, f"{name}.{reader}")
        inputs = self._inputs[index]
        channels = self._dialect.gated(gated.activation, gate, inputs, gated.channels, f"{name}.gated")
        return self._linears.output(gated, index, channels)
