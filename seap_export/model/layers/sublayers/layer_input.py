"""The channels of the sublayer that adds a layer's inputs to the stream."""

from __future__ import annotations

import torch

from seap_export.model.families import LayerInput
from seap_export.model.layers.batches import Batch
from seap_export.model.layers.sublayers.mlp import ACTIVATIONS
from seap_export.model.layers.sublayers.operands import Operands


def layer_input_channels(operands: Operands, gated: LayerInput, stream: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The inputs of the layer, each times its gate, [tokens, inputs]."""
    gate = operands.linear("layer_input_gate", operands.read(gated.output, stream))
    return ACTIVATIONS[gated.activation](gate) * stream[..., operands.inputs_of[gated.layer]]
