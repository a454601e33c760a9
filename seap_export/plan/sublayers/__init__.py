"""How sublayers are planned: one file for each kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from seap_export.families import Attention, LayerSpec, Mlp, ModelSpec, Sublayer
from seap_export.plan.cost import CostModel
from seap_export.plan.settings import Layout
from seap_export.plan.sublayers.attention import HeadOptions, KeptHeads
from seap_export.plan.sublayers.kept import Kept
from seap_export.plan.sublayers.mlp import KeptNeurons, NeuronOptions
from seap_export.plan.sublayers.options import Options

__all__ = [
    "KEPT",
    "OPTIONS",
    "HeadOptions",
    "Kept",
    "KeptHeads",
    "KeptNeurons",
    "LayerOptions",
    "NeuronOptions",
    "Options",
    "kinds_in",
    "layer_cost",
    "options_type",
    "smallest_layer",
]

#: The options of each kind of sublayer.
OPTIONS: Mapping[type[Sublayer], type[Options[Any]]] = {Attention: HeadOptions, Mlp: NeuronOptions}
#: What plans have of each kind.
KEPT = tuple(options.kept_type for options in OPTIONS.values())

#: The ways to shrink a layer: those of each of its sublayers, which are chosen independently of each other.
LayerOptions = tuple[Options[Any], ...]


def kinds_in(layers: Iterable[Mapping[str, Any]]) -> tuple[type[Kept], ...]:
    """The kinds of sublayers that some layers have, given their sizes by the keys of config.json."""
    keys = {key for layer in layers for key in layer}
    return tuple(kind for kind in KEPT if kind.size_words.keys() <= keys)


def options_type(sublayer: Sublayer) -> type[Options[Any]]:
    """The options of a sublayer's kind."""
    return OPTIONS[type(sublayer)]


def layer_cost(layer: LayerSpec, hidden_size: int, cost: CostModel) -> int:
    """What a layer costs."""
    return sum(options_type(sublayer).cost_of(sublayer, hidden_size, cost) for sublayer in layer.sublayers)


def smallest_layer(spec: ModelSpec, layer: LayerSpec, align: int, layout: Layout = "per-layer") -> LayerSpec:
    """A layer without everything that can be removed in a layout; single channels come in multiples of `align`."""
    sublayers = []
    for whole in layer.sublayers:
        smallest = options_type(whole).smallest(whole, align)
        is_loaded = layout == "per-layer" or options_type(whole).is_loaded(spec, smallest)
        sublayers.append(smallest if is_loaded else whole)
    return LayerSpec(tuple(sublayers))
