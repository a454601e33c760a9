"""Moves factors between weights, so that what products read is rounded to 8 bits with less loss: SmoothQuant.

A token's values share one scale, so that a channel with large values takes levels from all others. Such a channel is
divided by a factor, and the weights that read it are multiplied by that: the model computes the same. With

    s_j = max |x_j|^a / max |W_j|^(1 - a)

over the tokens of the calibration texts and the rows of the weights, a part of the unevenness of the values goes into
the weights, which lose less by it (Xiao et al. 2023, arXiv 2211.10438). What divides a channel is the gain of the norm
before it, or the row of the projection that makes it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from seap_export.model.families import ModelSpec, Sublayer, names
from seap_export.model.families.names import Projection

#: a of what a norm gives, and of the channels that an output projection reads: of those tried, with the least KL.
_OF_NORMS, _OF_CHANNELS = 0.7, 0.5
#: What values and weights are raised to at least, relative to the largest of them: what is never used gets no factor.
_LEAST = 1e-5

Tensors = Mapping[str, torch.Tensor]


def norm_readers(spec: ModelSpec, index: int, sublayer: Sublayer) -> list[Projection]:
    """The projections that read what a sublayer's norm gives, of all sublayers behind it, if it can take factors.

    Some families have no gains. Experts read a norm along with their router, and are not multiplied in integers.
    """
    layer, norm = spec.layers[index], sublayer.norm_before
    sharing = [one for one in layer.sublayers if one.norm_before == norm]
    if norm is None or not spec.family.block.norm_weight or any(one.blocks > 1 for one in sharing):
        return []
    return [reader for one in sharing for reader in one.readers]


def folded_norm(
    spec: ModelSpec, index: int, sublayer: Sublayer, tensors: Tensors, largest: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The tensors that differ once factors are moved from a norm to its readers, float32.

    Args:
        index: Index of the layer.
        sublayer: One that the norm is in front of.
        largest: The largest absolute value of each channel that the norm gives, [hidden_size].
    """
    readers = norm_readers(spec, index, sublayer)
    if not readers or sublayer.norm_before is None:
        return {}
    weights = {name: tensors[name].float() for name in (names.weight(reader, index) for reader in readers)}
    most = torch.stack([weight.abs().amax(0) for weight in weights.values()]).amax(0)
    factors = _factors(largest, most, _OF_NORMS)
    parts = [names.tensor(part, index) for part in spec.norm_parts(sublayer.norm_before)]
    divided = {name: tensors[name].float() / factors for name in parts}
    return {**divided, **{name: weight * factors for name, weight in weights.items()}}


def folded_channels(
    index: int, sublayer: Sublayer, tensors: Tensors, largest: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The tensors that differ once factors are moved from the rows that make channels to the output projection.

    Args:
        index: Index of the layer.
        largest: The largest absolute value of each channel, [channels].
    """
    if sublayer.channel_rows is None or sublayer.blocks > 1:
        return {}
    (reader, rows), output = sublayer.channel_rows, names.weight(sublayer.output, index)
    weight, row_of = tensors[output].float(), torch.tensor(list(rows))
    factors = _factors(_most(largest, row_of), _most(weight.abs().amax(0), row_of), _OF_CHANNELS)
    made = [names.weight(reader, index), *([names.bias(reader, index)] if reader in sublayer.biases else [])]
    divided = {name: (tensors[name].float().T / factors).T for name in made}
    return {**divided, output: weight * factors[row_of]}


def unfolded(spec: ModelSpec, index: int, before: Tensors, after: Tensors) -> dict[str, torch.Tensor]:
    """The tensors of a rounded layer without its factors, float32.

    Those of a norm are told by its gains, and those of channels by the size of the columns that read them.
    """
    tensors, norms = {name: tensor.float() for name, tensor in after.items()}, set[str | None]()
    for sublayer in spec.layers[index].sublayers:
        if sublayer.norm_before not in norms and (readers := norm_readers(spec, index, sublayer)):
            norms.add(sublayer.norm_before)
            parts = [names.tensor(part, index) for part in spec.norm_parts(str(sublayer.norm_before))]
            factors = before[parts[0]].float() / tensors[parts[0]]
            factors = torch.where(factors.isfinite() & (factors > 0), factors, 1.0)  # no factor gives another sign
            tensors |= {name: tensors[name] * factors for name in parts}
            tensors |= {name: tensors[name] / factors for name in (names.weight(reader, index) for reader in readers)}
        if sublayer.channel_rows is not None and sublayer.blocks == 1:
            (reader, rows), output = sublayer.channel_rows, names.weight(sublayer.output, index)
            row_of = torch.tensor(list(rows))
            now, then = (_sums(weights[output].float().square().sum(0), row_of) for weights in (tensors, before))
            factors = torch.where(then > 0, (now / then).sqrt(), 1.0)
            made = names.weight(reader, index)
            tensors |= {made: tensors[made] * factors[:, None], output: tensors[output] / factors[row_of]}
    return tensors


def _sums(values: torch.Tensor, row_of: torch.Tensor) -> torch.Tensor:
    """The sum of the values of the channels that each row makes, [rows]."""
    return values.new_zeros(int(row_of.max()) + 1).index_add_(0, row_of, values)


def _most(values: torch.Tensor, row_of: torch.Tensor) -> torch.Tensor:
    """The largest value of the channels that each row makes, [rows]."""
    return values.new_zeros(int(row_of.max()) + 1).scatter_reduce(0, row_of, values, "amax")


def _factors(values: torch.Tensor, weights: torch.Tensor, exponent: float) -> torch.Tensor:
    """The factor of each channel, float32; their geometric mean is 1."""
    values, weights = (most.clamp_min(_LEAST * most.max()).clamp_min(1e-30).log() for most in (values, weights))
    factors = exponent * values - (1 - exponent) * weights
    return (factors - factors.mean()).exp()
