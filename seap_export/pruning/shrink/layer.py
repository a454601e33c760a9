"""Cuts the tensors of one decoder layer down to what a plan keeps."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from seap_export.model.families import LayerSpec, ModelSpec, names
from seap_export.model.families.names import Projection
from seap_export.pruning.plan.plan import LayerPlan


def shrink_layer(
    tensors: Mapping[str, torch.Tensor], dense: ModelSpec, layer: int, plan: LayerPlan
) -> dict[str, torch.Tensor]:
    """The layer's tensors cut down to what is kept, under the same names.

    Columns of output projections follow the kept channels, rows of the other projections what is kept of them, such as
    heads of queries, groups of keys and values, or neurons, and rows of kernels theirs; biases follow their rows;
    norms stay.
    """
    spec, shrunk = dense.layers[layer], dict(tensors)
    for sublayer in spec.sublayers:
        kept = plan.named(sublayer.output)
        for projection in sublayer.readers:
            rows = kept.rows(sublayer, projection)
            for name in (names.weight(projection, layer), names.bias(projection, layer)):
                if name in shrunk:
                    shrunk[name] = shrunk[name].index_select(0, rows)
        for inner in sublayer.inner_tensors():
            name = names.tensor(inner, layer)
            shrunk[name] = tensors[name].index_select(0, kept.rows(sublayer, inner))
        weight = names.weight(sublayer.output, layer)
        shrunk[weight] = tensors[weight].index_select(1, kept_channels(plan, spec, sublayer.output))
    return shrunk


def with_all_biases(tensors: Mapping[str, torch.Tensor], shrunk: ModelSpec, layer: int) -> dict[str, torch.Tensor]:
    """The layer's tensors, with zeros for each missing bias that the shrunk model has a place for; float32."""
    shapes = shrunk.layer_tensors(layer)
    zeros = {name: torch.zeros(shape) for name, shape in shapes.items() if name.endswith(".bias")}
    return {**zeros, **tensors}


def kept_channels(plan: LayerPlan, dense: LayerSpec, output: Projection) -> torch.Tensor:
    """The kept input channels of an output projection, as indices into the dense ones, int64."""
    return plan.named(output).channels(dense.named(output))
