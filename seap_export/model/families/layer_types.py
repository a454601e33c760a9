"""Reads from config.json which kinds of sublayers each layer has besides its MLP, and which layers have a window."""

from __future__ import annotations

from collections.abc import Collection

from seap_export.errors import InputError
from seap_export.model.families.check import check_window
from seap_export.model.families.config_reader import ConfigReader, positive
from seap_export.model.families.parts import LayerKind, Window


def read_layer_types(config: ConfigReader, num_hidden_layers: int) -> list[tuple[LayerKind, ...]]:
    """The kinds of each layer's sublayers before the MLP; several stand side by side.

    Where a layer can be an MLP alone, the kinds of all its sublayers.
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
        kinds = [rules[kind] for kind in _listed(types, rules, num_hidden_layers)]
    if not any("attention" in of_layer for of_layer in kinds):
        raise InputError("config.json: a model without attention is not supported; use another model")
    return kinds


def _listed(types: object, known: Collection[str], number: int) -> list[str]:
    """The `layer_types` of a config; raises `InputError` if a layer is missing, or of a type that is not known."""
    if not isinstance(types, list) or len(types) < number:
        raise InputError("config.json: 'layer_types' must list every layer; download the model again")
    unknown = sorted({str(kind) for kind in types} - set(known))
    if unknown:
        raise InputError(f"config.json: layers of type '{unknown[0]}' are not supported; use another model")
    return types[:number]


def _attention_layers(config: ConfigReader, number: int) -> list[int]:
    """The indices of the layers with attention, for a config without `layer_types`."""
    rule = config.family.attention_layers
    if rule.endswith("_interval"):
        interval = config.positive(rule)
        return [index for index in range(number) if (index + 1) % interval == 0]
    indices: list[int] = config.get(rule, config.family.defaults.get(rule, list(range(number))))
    return indices


def read_windows(config: ConfigReader, num_hidden_layers: int) -> list[int | None]:
    """For each layer, how many positions a query attends to, including its own; None: all earlier ones."""
    rule, window = config.family.window, config.get("sliding_window")
    kinds = config.get("layer_types")
    if rule is None:
        return [None] * num_hidden_layers
    switched_on = rule.switch is None or bool(config.get(rule.switch))
    slides = _slides(config, rule, kinds, num_hidden_layers)
    if window and not switched_on and isinstance(kinds, list) and any(slides or ()):
        raise InputError(
            f"config.json: '{rule.switch}' is off, but 'layer_types' has layers with a window; correct one of them"
        )
    if not window or not switched_on:
        return [None] * num_hidden_layers
    if slides is None:
        raise InputError("config.json: 'layer_types' must say which layers have a window; add it")
    check_window(int(window))
    return [int(window) if slides_here else None for slides_here in slides]


def _slides(config: ConfigReader, rule: Window, kinds: object, number: int) -> list[bool] | None:
    """Which layers have a window; None: the config does not say."""
    pattern = config.get("sliding_window_pattern", rule.pattern) if rule.pattern else None
    first = config.get(rule.first, 0) if rule.first else None
    if rule.layers == "all":
        return [True] * number
    if rule.layers == "attention_types":
        words = [word for period, times in config.get("attention_types", ()) for word in list(period) * times]
        if len(words) != number or set(words) - {"global", "local"}:
            raise InputError("config.json: 'attention_types' must say of each layer whether it is global or local")
        return [word == "local" for word in words]
    if kinds is not None:
        listed = _listed(kinds, config.family.layer_types or ("sliding_attention", "full_attention"), number)
        return [kind == "sliding_attention" for kind in listed]
    if pattern:
        period = len(pattern) if isinstance(pattern, str) else positive("sliding_window_pattern", pattern)
        return [(index + 1) % period != 0 for index in range(number)]
    return None if first is None else [index >= first for index in range(number)]
