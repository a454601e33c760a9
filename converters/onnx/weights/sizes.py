"""Computes how many bytes a graph's weights take from the model's shapes."""

from __future__ import annotations

import math

from converters.onnx.precision import Precision
from seap_export.model.families import ModelSpec, names

#: Bytes of the place of a row in a table whose rows have bits of their own.
_PLACE_BYTES = 4


def weight_bytes(spec: ModelSpec, precision: Precision) -> int:
    """About how many bytes weights, rotary tables and places of rows take: norms count like matrices."""
    weights, grid = spec.num_parameters(), precision.quantization
    whole = 0  # of the weights that stay as they are
    if grid is not None:
        kept = {names.tensor(name) for name in ("positions", "layer_inputs_proj")}
        for name, shape in spec.outer_tensors().items():
            whole += math.prod(shape) if name in kept or not grid.takes_table(shape[-1]) else 0
        for sublayer in spec.sublayers:
            rounded = sublayer.rounded(spec.hidden_size, grid.block_size)
            shapes = sublayer.shapes(spec.hidden_size).items()
            whole += sum(math.prod(shape) for projection, shape in shapes if projection not in rounded)
    places = 0
    if grid is not None and grid.splits(spec.vocab_size) and grid.takes_table(spec.hidden_size):
        places = _PLACE_BYTES * spec.vocab_size * (1 if spec.tie_word_embeddings else 2)
    numbers = whole + _rotary_numbers(spec)
    return round((weights - whole) * precision.weight_bytes + numbers * precision.dtype_bytes) + places


def _rotary_numbers(spec: ModelSpec) -> int:
    """Cosines and sines of every position for each kind of rotation; longrope has those of short inputs besides."""
    switched = sum(rope.dim * min(rope.switches_at or 0, spec.max_position_embeddings) for rope in spec.ropes)
    return spec.max_position_embeddings * sum(rope.dim for rope in spec.ropes) + switched
