"""The reference's weights as a graph stores them, so that a comparison is of the arithmetic alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from converters.precision import BlockQuantization, Precision
from converters.quantize import QuantizedMatrix, dequantize, quantize
from seap_export.families import ModelSpec
from seap_export.families.family import PROJECTIONS

__all__ = ["round_weights"]


def round_weights(model: Any, spec: ModelSpec, precision: Precision) -> None:
    """Rounds the matrices of a torch model to the levels that int8 or int4 leave, in place; others stay as they are.

    Args:
        model: A transformers causal language model, float32.
        spec: Its shapes.
        precision: Of the graph.
    """
    how = precision.quantization
    if how is None:
        return
    with torch.no_grad():
        for name in _quantized(spec, how):
            weight = model.get_parameter(name)
            weight.copy_(_rounded(weight, how, precision.torch_dtype))


def _quantized(spec: ModelSpec, how: BlockQuantization) -> Iterator[str]:
    family = spec.family
    if how.embeddings:
        yield family.tensor("embed_tokens")
        if not spec.tie_word_embeddings:
            yield family.tensor("lm_head")
    for layer in range(len(spec.layers)):
        for projection in PROJECTIONS:
            yield family.weight(projection, layer)


def _rounded(weight: torch.Tensor, how: BlockQuantization, dtype: torch.dtype) -> torch.Tensor:
    matrix = quantize(weight, how)
    scales = matrix.scales.to(dtype).float()  # stored in the activations' dtype
    return dequantize(QuantizedMatrix(matrix.packed, scales, matrix.zero_points), how, weight.shape[1])
