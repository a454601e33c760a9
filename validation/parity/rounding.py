"""Rounds in torch as a graph does: weights, so that only the arithmetic is compared, and activations.

A graph that is scaled to stay within fp16 rounds numbers that torch would overflow in, unless it is scaled alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from converters.onnx.graph.dialects.looped import is_looped
from converters.onnx.precision import Precision
from converters.onnx.weights.scaling import Scaling, scaled_epsilon
from seap_export.model.families import Experts, Family, ModelSpec, names
from seap_export.model.families.family import FUSED
from seap_export.model.families.names import ROUTED
from seap_export.model.families.stacked import stacked_projections
from seap_export.model.sources.stored import StoredForm
from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.scales import best_scales, levels, padded_blocks
from validation.checkpoint import Change, Weights

#: Elements that are rounded at a time.
_ELEMENTS = 1 << 18


def round_weights(spec: ModelSpec, precision: Precision) -> Change | None:
    """Rounds matrices to the levels of their grids; None: the precision leaves them as they are."""
    if precision.quantization is None:
        return None
    grids, form, dtype = _grids(spec, precision.quantization), StoredForm(spec), precision.torch_dtype
    # Only a rounded model is written with such tables, and it is on their grids.
    split = {stored for table in precision.quantization.tables for stored in form.holders([table.name])}

    def rounded(name: str, tensor: torch.Tensor) -> torch.Tensor:
        rounding = grids.get(name)
        if rounding is None or name in split:
            return tensor
        if tensor.dim() == 3:  # matrices of experts
            rows = tensor.mT if form.is_transposed(name) else tensor
            on_grid = _rounded(rows.flatten(0, 1), rounding, dtype).view(rows.shape)
            return on_grid.mT if form.is_transposed(name) else on_grid
        return _rounded(tensor.T, rounding, dtype).T if form.is_transposed(name) else _rounded(tensor, rounding, dtype)

    return lambda weights: {name: rounded(name, tensor) for name, tensor in weights.items()}


def _grids(spec: ModelSpec, rounding: BlockQuantization) -> dict[str, BlockQuantization]:
    """The grids of quantised weights by their stored names; the parts of one stored weight have the same."""
    form, quantized = StoredForm(spec), frozenset(_quantized(spec, rounding))
    held = ((stored, rounding.of(plain)) for plain in spec.tensors() for stored in form.holders([plain]))
    return {stored: grid for stored, grid in held if stored in quantized}


def _quantized(spec: ModelSpec, rounding: BlockQuantization) -> Iterator[str]:
    """The stored names of quantised weights; rows are quantised one by one, so that fused projections may stay so."""
    family = spec.family
    tables = spec.token_tables if spec.tie_word_embeddings else (*spec.token_tables, "lm_head")
    yield from (family.stored(table) for table in tables if rounding.takes_table(spec.row_width(table)))
    for module in _projections(spec, rounding):
        yield f"{module}.weight"
    for layer, _ in _quantized_experts(spec, rounding):
        for stacked in stacked_projections(spec, layer).values():
            yield from stacked.parts


def _projections(spec: ModelSpec, rounding: BlockQuantization) -> Iterator[str]:
    """The modules of the torch model that are quantised projections."""
    stored_as = {part: fused for fused in spec.family.fused for part in FUSED[fused]}
    for index, layer in enumerate(spec.layers):
        rounded = (
            name for sublayer in layer.sublayers for name in sublayer.rounded(spec.hidden_size, rounding.block_size)
        )
        matrices = (stored_as.get(projection, projection) for projection in rounded if projection not in ROUTED)
        for name in dict.fromkeys(matrices):
            yield spec.family.module(name, index)


def _quantized_experts(spec: ModelSpec, rounding: BlockQuantization) -> Iterator[tuple[int, Experts]]:
    """The layers whose experts are quantised, and these."""
    for index, layer in enumerate(spec.layers):
        for experts in layer.sublayers:
            if isinstance(experts, Experts) and experts.rounded(spec.hidden_size, rounding.block_size):
                yield index, experts


def _rounded(weight: torch.Tensor, rounding: BlockQuantization, dtype: torch.dtype) -> torch.Tensor:
    rounded, rows = torch.empty_like(weight), max(1, _ELEMENTS // weight.shape[1])
    for part, into in zip(weight.split(rows), rounded.split(rows), strict=True):
        blocks = padded_blocks(part, rounding)
        scales, zero_points = best_scales(blocks, rounding)
        stored = scales.to(dtype).float()  # in the activations' dtype
        on_levels = levels(blocks, scales, zero_points, rounding).sub_(zero_points).mul_(stored)
        into.copy_(on_levels.flatten(1)[:, : weight.shape[1]])
    return rounded


def scale_weights(spec: ModelSpec, scaling: Scaling) -> Change:
    """Scales weights like a graph's, so that they overflow in fp16 as little; `scale_norms` belongs to it."""
    form = StoredForm(spec)
    # torch's factor on embeddings cannot be changed in all classes: their table is scaled always.
    exponents = scaling.tensors(replace(spec, block=replace(spec.block, embedding_multiplier=1.0)))
    held: dict[str, list[str]] = {}
    for plain in spec.tensors():
        for stored in form.holders([plain]):
            held.setdefault(stored, []).append(plain)

    def scaled(weights: Weights) -> Weights:
        plain_names = dict.fromkeys(plain for name in weights for plain in held[name])
        changed = {
            name: tensor * 2.0 ** exponents.get(name, 0)
            for name, tensor in form.to_plain(plain_names, weights).items()
        }
        return {name: tensor.float() for name, tensor in form.to_stored(changed).items()}

    return scaled


def scale_norms(model: Any, spec: ModelSpec, scaling: Scaling) -> frozenset[str]:
    """Gives the norms of a torch model the epsilons that go with `scale_weights`."""
    family = spec.family
    norms = {family.module("norm"): scaling.stream}
    norms |= {family.module(names.INPUT_TABLES[-1]): scaling.stream} if spec.layer_inputs else {}
    for index in range(len(spec.layers)):
        for sublayer in spec.layers[index].sublayers:
            if sublayer.norm_before is not None:
                norms[family.module(sublayer.norm_before, index)] = scaling.stream
            if sublayer.norm_after is not None:
                norms[family.module(sublayer.norm_after, index)] = scaling.output(spec, sublayer.output, index)
            if sublayer.norm_of_sum is not None:
                norms[family.module(sublayer.norm_of_sum, index)] = scaling.stream
    for name, exponent in norms.items():
        module = model.get_submodule(name)
        attribute = "eps" if hasattr(module, "eps") else "variance_epsilon"
        setattr(module, attribute, scaled_epsilon(getattr(module, attribute), exponent))
    return frozenset(f"{name}.{part}" for name in norms for part in ("weight", "bias") if family.block.norm_offset)


def narrow(dtype: torch.dtype, kept: Collection[str] = ()) -> Change:
    """Converts weights to a dtype of 16 bits, which the model then computes in; some may be kept."""
    return lambda weights: {name: tensor if name in kept else tensor.to(dtype) for name, tensor in weights.items()}


def round_activations(model: Any, spec: ModelSpec, rounding: BlockQuantization, *, whole_rows: bool = False) -> None:
    """Makes the model round the inputs of products with quantised weights to 8 bits, block by block.

    The CPU's kernels do the same for MatMulNBits at accuracy level 4: each block's scale is its largest value / 127.

    Args:
        model: A transformers causal language model, float32.
    """

    def round_inputs(module: Any, block_size: int) -> None:
        to_8_bits = _row_to_8_bits if whole_rows else partial(_to_8_bits, block_size=block_size)
        module.register_forward_pre_hook(lambda _, inputs: (to_8_bits(inputs[0]),))

    grids = _grids(spec, rounding)
    for name in _projections(spec, rounding):
        round_inputs(model.get_submodule(name), grids[f"{name}.weight"].input_block)
    if rounding.takes_table(spec.hidden_size):
        head = "embed_tokens" if spec.tie_word_embeddings else "lm_head"
        round_inputs(model.get_output_embeddings(), rounding.of(names.tensor(head)).block_size)
    for layer, experts in _quantized_experts(spec, rounding):
        if not is_looped(experts):  # whose products are of floats
            _round_neurons(model, spec.family, layer, rounding.block_size)


def _round_neurons(model: Any, family: Family, layer: int, block_size: int) -> None:
    """Rounds to 8 bits what the experts of a layer multiply; what the router reads is not rounded."""
    rules, prefix = family.experts, family.names["layer"].format(layer=layer)
    assert rules is not None
    inputs_first = rules.inputs_first
    experts = model.get_submodule(prefix + rules.path("experts"))

    def rounded(x: torch.Tensor, projection: str, expert: int) -> torch.Tensor:
        weight, biases = getattr(experts, projection)[expert], getattr(experts, f"{projection}_bias", None)
        product = _to_8_bits(x, block_size) @ (weight if inputs_first else weight.T)
        return product if biases is None else product + biases[expert]

    def gated(both: torch.Tensor) -> torch.Tensor:
        if inputs_first:
            return experts._apply_gate(both)
        gate, up = both.chunk(2, -1)
        return experts.act_fn(gate) * up

    def forward(x: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x)
        for expert in indices.unique().tolist():
            tokens, rank = torch.where(indices == expert)
            written = rounded(gated(rounded(x[tokens], "gate_up_proj", expert)), "down_proj", expert)
            total.index_add_(0, tokens, written * weights[tokens, rank, None])
        return total

    experts.forward = forward


def _to_8_bits(x: torch.Tensor, block_size: int) -> torch.Tensor:
    width = x.shape[-1]
    size = block_size or width
    blocks = torch.nn.functional.pad(x, (0, -width % size)).unflatten(-1, (-1, size))
    scales = blocks.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny) / 127
    return ((blocks / scales).round() * scales).flatten(-2)[..., :width]


def _row_to_8_bits(x: torch.Tensor) -> torch.Tensor:
    low, high = x.amin(-1, keepdim=True).clamp_max(0), x.amax(-1, keepdim=True).clamp_min(0)
    scales = (high - low).clamp_min(torch.finfo(x.dtype).tiny) / 255
    zero_points = (-128 - low / scales).round()
    return (((x / scales).round() + zero_points).clamp(-128, 127) - zero_points) * scales
