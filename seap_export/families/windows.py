"""Which layers attend within a sliding window, read from config.json."""

from __future__ import annotations

from seap_export.errors import InputError
from seap_export.families.check import check_window
from seap_export.families.config_reader import ConfigReader, positive
from seap_export.families.parts import Window

__all__ = ["read_windows"]


def read_windows(config: ConfigReader, num_hidden_layers: int) -> list[int | None]:
    """For each layer, how many positions a query attends to, including its own; None: all earlier ones.

    Raises:
        InputError: A value is out of range, or the kind of a layer is not known.
    """
    rule, window = config.family.window, config.get("sliding_window")
    kinds = config.get("layer_types")
    if rule is None:
        return [None] * num_hidden_layers
    switched_on = rule.switch is None or bool(config.get(rule.switch))
    slides = _slides(config, rule, kinds, num_hidden_layers)
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
        if not isinstance(kinds, list) or len(kinds) < number:
            raise InputError("config.json: 'layer_types' must list every layer; download the model again")
        unknown = sorted({str(kind) for kind in kinds} - {"sliding_attention", "full_attention"})
        if unknown:
            raise InputError(f"config.json: layers of type '{unknown[0]}' are not supported; use another model")
        return [kind == "sliding_attention" for kind in kinds[:number]]
    if pattern:
        period = len(pattern) if isinstance(pattern, str) else positive("sliding_window_pattern", pattern)
        return [(index + 1) % period != 0 for index in range(number)]
    return None if first is None else [index >= first for index in range(number)]
