"""Which kinds of sublayers each layer has besides its MLP, read from config.json."""

from __future__ import annotations

from seap_export.errors import InputError
from seap_export.families.config_reader import ConfigReader
from seap_export.families.parts import LayerKind

__all__ = ["read_layer_types"]


def read_layer_types(config: ConfigReader, num_hidden_layers: int) -> list[tuple[LayerKind, ...]]:
    """The kinds of each layer's sublayers before the MLP, which stand side by side if there are several; where a layer
    can be an MLP alone, of all its sublayers.

    Raises:
        InputError: The config does not list every layer, names a type that is not known, or has no attention at all.
    """
    rules = config.family.layer_types
    if not rules:
        return [("attention",)] * num_hidden_layers
    if len(rules) == 1:
        return [*rules.values()] * num_hidden_layers
    types, indices = config.get("layer_types"), _attention_layers(config, num_hidden_layers)
    if types is None:
        full, other = sorted(rules.values(), key=lambda kinds: "attention" not in kinds)
        kinds = [full if index in indices else other for index in range(num_hidden_layers)]
    else:
        if not isinstance(types, list) or len(types) < num_hidden_layers:
            raise InputError("config.json: 'layer_types' must list every layer; download the model again")
        unknown = sorted({str(kind) for kind in types} - set(rules))
        if unknown:
            raise InputError(f"config.json: layers of type '{unknown[0]}' are not supported; use another model")
        kinds = [rules[kind] for kind in types[:num_hidden_layers]]
    if not any("attention" in of_layer for of_layer in kinds):
        raise InputError("config.json: a model without attention is not supported; use another model")
    return kinds


def _attention_layers(config: ConfigReader, number: int) -> list[int]:
    """The indices of the layers with attention, for a config without `layer_types`."""
    rule = config.family.attention_layers
    if rule.endswith("_interval"):
        interval = config.positive(rule)
        return [index for index in range(number) if (index + 1) % interval == 0]
    indices: list[int] = config.get(rule, config.family.defaults.get(rule, list(range(number))))
    return indices
