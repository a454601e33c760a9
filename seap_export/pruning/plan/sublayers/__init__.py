"""How sublayers are planned: one file for each kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from seap_export.model.families import Attention, LayerSpec, ModelSpec, Sublayer
from seap_export.model.families.names import Projection
from seap_export.pruning.plan.cost import CostModel
from seap_export.pruning.plan.settings import Layout
from seap_export.pruning.plan.sublayers.attention import HeadOptions, KeptHeads
from seap_export.pruning.plan.sublayers.convolution import ConvolutionOptions, KeptConvolution
from seap_export.pruning.plan.sublayers.delta_net import DeltaNetOptions, KeptDeltaNet
from seap_export.pruning.plan.sublayers.experts import ExpertOptions, KeptExperts
from seap_export.pruning.plan.sublayers.kept import Kept
from seap_export.pruning.plan.sublayers.layer_input import KeptInputs, LayerInputOptions
from seap_export.pruning.plan.sublayers.mamba import KeptMamba, MambaOptions
from seap_export.pruning.plan.sublayers.mlp import KeptNeurons, NeuronOptions
from seap_export.pruning.plan.sublayers.options import Options
from seap_export.pruning.plan.sublayers.shared_expert import KeptShared, SharedOptions

__all__ = [
    "KEPT", "OPTIONS", "DeltaNetOptions", "ExpertOptions", "HeadOptions", "Kept", "KeptConvolution", "KeptDeltaNet",
    "KeptExperts", "KeptHeads", "KeptInputs", "KeptMamba", "KeptNeurons", "KeptShared", "LayerOptions", "MambaOptions",
    "NeuronOptions", "Options", "alike", "kinds_in", "layer_cost", "options_type", "smallest_layer", "thinner_layer",
    "whole_words",
]  # fmt: skip

#: The options of each kind of sublayer.
OPTIONS: Mapping[type[Sublayer], type[Options[Any]]] = {
    options.kept_type.kind: options
    for options in (
        HeadOptions, ConvolutionOptions, DeltaNetOptions, MambaOptions, NeuronOptions, ExpertOptions, SharedOptions,
        LayerInputOptions,
    )
}  # fmt: skip
#: The plans of each kind of sublayer.
KEPT = tuple(options.kept_type for options in OPTIONS.values())

#: The ways to shrink a layer: those of each of its sublayers, which are chosen independently of each other.
LayerOptions = tuple[Options[Any], ...]


def alike(sublayers: Iterable[Sublayer | Kept]) -> bool:
    """Whether all sublayers of a kind have the same sizes, as in the uniform layout."""
    sizes: dict[type[Sublayer], dict[str, int]] = {}
    kinds = (
        (sublayer.kind if isinstance(sublayer, Kept) else type(sublayer), sublayer.sizes) for sublayer in sublayers
    )
    return all(sizes.setdefault(kind, of_kind) == of_kind for kind, of_kind in kinds)


def kinds_in(layers: Iterable[Mapping[str, Any]]) -> tuple[type[Kept], ...]:
    """The kinds of sublayers that some layers have, given their sizes by the keys of config.json."""
    keys = {key for layer in layers for key in layer}
    return tuple(kind for kind in KEPT if kind.size_words.keys() <= keys)


def options_type(sublayer: Sublayer) -> type[Options[Any]]:
    """The class of the options of a sublayer's kind."""
    return OPTIONS[type(sublayer)]


def layer_cost(layer: LayerSpec, hidden_size: int, cost: CostModel) -> int:
    return sum(options_type(sublayer).cost_of(sublayer, hidden_size, cost) for sublayer in layer.sublayers)


def smallest_layer(spec: ModelSpec, layer: LayerSpec, align: int, layout: Layout = "per-layer") -> LayerSpec:
    """A layer without everything that can be removed in a layout; single channels come in multiples of `align`."""
    sublayers = []
    for whole in layer.sublayers:
        kind = options_type(whole)
        if whole.whole_because:
            sublayers.append(whole)
        elif layout == "per-layer":
            sublayers.append(kind.smallest(whole, align))
        else:
            sublayers.append(kind.smallest_loaded(spec, whole, align))
    return LayerSpec(tuple(sublayers))


def thinner_layer(layer: LayerSpec, hidden_size: int, fraction: float) -> LayerSpec:
    """A layer with about this fraction of its weights; the last sublayer takes what the others leave."""
    *others, last = sorted(layer.sublayers, key=lambda sublayer: sublayer.whole_because is None)
    thinner: dict[Projection, Sublayer] = {other.output: _about(other, fraction) for other in others}
    left = fraction * sum(sublayer.weights(hidden_size) for sublayer in layer.sublayers)
    left -= sum(sublayer.weights(hidden_size) for sublayer in thinner.values())
    thinner[last.output] = _about(last, left / last.weights(hidden_size))
    return LayerSpec(tuple(thinner[output] for output in layer.outputs))


def _about(sublayer: Sublayer, fraction: float) -> Sublayer:
    return sublayer if sublayer.whole_because else options_type(sublayer).about(sublayer, fraction)


def whole_words(spec: ModelSpec) -> list[str]:
    """A line for each kind of sublayer from which nothing can be removed, with the reason, and for shared caches."""
    reasons = dict.fromkeys(
        (options_type(sublayer).kept_type.name, sublayer.whole_because) for sublayer in spec.sublayers
    )
    shared = any(attention.fixed_groups for attention in spec.all(Attention))
    lines = ["KV heads stay in layers that share keys and values"] if shared else []
    return [*lines, *(f"{name} stays whole: {reason}" for name, reason in reasons if reason is not None)]
