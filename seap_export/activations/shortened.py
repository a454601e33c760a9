"""A model whose lengths are short enough for one text to show what happens beyond them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from seap_export.families import LayerSpec, ModelSpec, RopeSpec

__all__ = ["shortened"]

_CONTEXT = "original_max_position_embeddings"


def shortened(config: Mapping[str, Any], spec: ModelSpec, length: int) -> tuple[dict[str, Any], ModelSpec]:
    """Config and description with windows, and lengths at which a rotation or queries change, of at most `length`.

    The lengths in the config become shorter whether the description knows of them or not.
    """
    config, layers, block = dict(config), spec.layers, spec.block
    if config.get("sliding_window"):
        window = config["sliding_window"] = min(config["sliding_window"], length)
        layers = tuple(own if own.sliding_window is None else replace(own, sliding_window=window) for own in layers)
    if block.query_scaling is not None or any(own.rope and own.rope.switches_at for own in layers):
        config = _with_context(config, length)
        layers = tuple(_layer_with_context(own, length) for own in layers)
        if block.query_scaling is not None:
            scaling = replace(block.query_scaling, context=min(block.query_scaling.context, length))
            block = replace(block, query_scaling=scaling)
    return config, replace(spec, layers=layers, block=block)


def _with_context(config: Mapping[str, Any], length: int) -> dict[str, Any]:
    """The config with a shorter original length wherever it gives one."""
    shorter = {
        key: _with_context(value, length)
        for key, value in config.items()
        if key in ("rope_scaling", "rope_parameters") and value
    }
    if config.get(_CONTEXT):
        shorter[_CONTEXT] = min(config[_CONTEXT], length)
    return {**config, **shorter}


def _layer_with_context(layer: LayerSpec, length: int) -> LayerSpec:
    rope = layer.rope
    if rope is None or not rope.parameters.get(_CONTEXT):
        return layer
    parameters = {**rope.parameters, _CONTEXT: min(rope.parameters[_CONTEXT], length)}
    shorter: RopeSpec = replace(rope, parameters=MappingProxyType(parameters))
    return replace(layer, rope=shorter)
