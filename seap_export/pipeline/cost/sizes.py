"""How many bytes a format takes for a model that loses some of its weights."""

from __future__ import annotations

from dataclasses import replace

from converters.format import Format
from seap_export.families import ModelSpec

__all__ = ["format_bytes"]


def format_bytes(own: Format, spec: ModelSpec, removed: float = 0) -> int:
    """About how many bytes the weight files take.

    Args:
        own: The format.
        spec: The model's shapes.
        removed: Number of weights that are removed from the layers first.
    """
    whole = own.size(spec)
    if not removed:
        return whole
    thinner = spec.with_layers(
        tuple(replace(layer, intermediate_size=max(1, layer.intermediate_size // 2)) for layer in spec.layers)
    )
    per_weight = (whole - own.size(thinner)) / max(1, spec.num_parameters() - thinner.num_parameters())
    return round(whole - removed * per_weight)
