"""Rounds in torch what a graph rounds: weights, so that only the arithmetic is compared, and activations.

A graph that is scaled to stay within fp16 rounds numbers that torch would overflow in, unless it is scaled alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from converters.precision import BlockQuantization, Precision
from converters.quantize import QuantizedMatrix, dequantize, quantize
from converters.scaling import Scaling, scaled_epsilon
from seap_export.families import ModelSpec
from seap_export.families.family import FUSED
from seap_export.families.names import PROJECTIONS
from seap_export.layers.halves import NORMS_AROUND
from seap_export.sources.stored import StoredForm

__all__ = ["round_activations", "round_weights", "scale_weights"]


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


def scale_weights(model: Any, spec: ModelSpec, scaling: Scaling) -> frozenset[str]:
    """Scales a torch model in place like a graph, so that it overflows in fp16 as little; its results are the same.

    Args:
        model: A transformers causal language model, float32.
        spec: What it computes.
        scaling: The graph's.

    Returns:
        The gains of norms that must not be rounded to 16 bits, because they are stored without an offset of 1 that
        is most of them now.
    """
    if scaling == Scaling():
        return frozenset()
    form, family = StoredForm(spec), spec.family
    # torch's factor on embeddings cannot be changed in all classes: their table is scaled always.
    exponents = scaling.tensors(replace(spec, block=replace(spec.block, embedding_multiplier=1.0)))
    layers = range(len(spec.layers))
    with torch.no_grad():
        for plain in (spec.outer_tensors(), *map(spec.layer_tensors, layers)):
            stored = {name: model.get_parameter(name) for name in form.holders(plain)}
            scaled = {
                name: tensor * 2.0 ** exponents.get(name, 0) for name, tensor in form.to_plain(plain, stored).items()
            }
            for name, tensor in form.to_stored(scaled).items():
                stored[name].copy_(tensor)
    norms = {family.module("norm"): scaling.stream}
    for index in layers:
        for half, around in NORMS_AROUND.items():
            for norm, exponent in zip(around, (scaling.stream, scaling.output(spec, half, index)), strict=True):
                if norm in spec.block.norms:
                    norms[family.module(norm, index)] = exponent
    for name, exponent in norms.items():
        module = model.get_submodule(name)
        attribute = "eps" if hasattr(module, "eps") else "variance_epsilon"
        setattr(module, attribute, scaled_epsilon(getattr(module, attribute), exponent))
    return frozenset(f"{name}.weight" for name in norms) if family.block.norm_offset else frozenset()


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
