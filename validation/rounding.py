"""Rounds in torch what a graph rounds: weights, so that only the arithmetic is compared, and activations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from converters.precision import BlockQuantization, Precision
from converters.quantize import QuantizedMatrix, dequantize, quantize
from seap_export.families import ModelSpec
from seap_export.families.family import FUSED
from seap_export.families.names import PROJECTIONS

__all__ = ["round_activations", "round_weights"]


def round_weights(model: Any, spec: ModelSpec, precision: Precision) -> None:
    """Rounds the matrices of a torch model in place to int8 or int4 levels; other precisions leave them unchanged.

    Args:
        model: A transformers causal language model, float32.
        spec: Its shapes.
        precision: The graph's.
    """
    how = precision.quantization
    if how is None:
        return
    with torch.no_grad():
        for name in _quantized(spec, how):
            weight = model.get_parameter(name)
            weight.copy_(_rounded(weight, how, precision.torch_dtype))


def _quantized(spec: ModelSpec, how: BlockQuantization) -> Iterator[str]:
    """The stored names of quantised weights; rows are quantised one by one, so that fused projections may stay so."""
    family = spec.family
    if how.embeddings:
        yield family.stored("embed_tokens")
        if not spec.tie_word_embeddings:
            yield family.stored("lm_head")
    for module in _projections(spec):
        yield f"{module}.weight"


def _projections(spec: ModelSpec) -> Iterator[str]:
    """The modules of the torch model that are projections."""
    stored = [name for name in (*PROJECTIONS, *FUSED) if name in spec.family.names]
    for layer in range(len(spec.layers)):
        for name in stored:
            yield spec.family.module(name, layer)


def _rounded(weight: torch.Tensor, how: BlockQuantization, dtype: torch.dtype) -> torch.Tensor:
    matrix = quantize(weight, how)
    scales = matrix.scales.to(dtype).float()  # stored in the activations' dtype
    return dequantize(QuantizedMatrix(matrix.packed, scales, matrix.zero_points), how, weight.shape[1])


def round_activations(model: Any, spec: ModelSpec, how: BlockQuantization) -> None:
    """Makes the model round the inputs of products with quantised weights to 8 bits, block by block.

    The CPU's kernels do the same for MatMulNBits at accuracy level 4: each block's scale is its largest value / 127.

    Args:
        model: A transformers causal language model, float32.
        spec: Its shapes.
        how: The graph's quantisation.
    """
    modules = [model.get_submodule(name) for name in _projections(spec)]
    if how.embeddings:
        modules.append(model.get_output_embeddings())
    for module in modules:
        module.register_forward_pre_hook(lambda _, inputs: (_to_8_bits(inputs[0], how.block_size),))


def _to_8_bits(x: torch.Tensor, block_size: int) -> torch.Tensor:
    width = x.shape[-1]
    blocks = torch.nn.functional.pad(x, (0, -width % block_size)).unflatten(-1, (-1, block_size))
    scales = blocks.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny) / 127
    return ((blocks / scales).round() * scales).flatten(-2)[..., :width]
