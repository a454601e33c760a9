"""Micro models whose layers differ in shape, with the biases that a refit adds."""

from __future__ import annotations

from typing import Any

from micro import VARIATIONS

from seap_export.families import family_of_model_type, names
from seap_export.families.config_reader import PROJECTION_PATHS
from seap_export.families.family import PRUNED_PREFIX

__all__ = ["uneven_values"]


def uneven_values(variation: str, *, biases: bool = True, **more: Any) -> dict[str, Any]:
    """Config values of a variation of `micro.VARIATIONS`, for `write_micro_model`: each layer has other sizes.

    Args:
        variation: Its name.
        biases: Whether o_proj has a bias in the layers that were cut, and down_proj in one of them.
        more: Further config values.
    """
    values = {**VARIATIONS[variation], **more}
    family = family_of_model_type(values["model_type"])
    sizes = family.key("intermediate_size")
    groups = {6: (4, 2), 1: (1, 1)}.get(values.get("num_key_value_heads", 3), (2, 1))
    layers = {
        str(index): {"num_attention_heads": heads, "num_key_value_heads": own, sizes: neurons}
        for index, heads, own, neurons in ((1, 4, groups[0], 48), (2, 2, groups[1], 64))
    }
    if biases:
        layers["1"] |= {"o_proj_bias": True, "down_proj_bias": True}
        layers["2"] |= {"o_proj_bias": True}
    unusual = {
        key: family.names[name]
        for name, key in PROJECTION_PATHS.items()
        if family.stored(name, 0) != names.tensor(name, 0)
    }
    return {
        **values,
        "model_type": PRUNED_PREFIX + family.model_type,
        "o_proj_bias": False,
        "down_proj_bias": False,
        "per_layer_config": layers,
        **unusual,
    }
