"""Reads config.json so that every key is accounted for: read, harmless, or refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from seap_export.errors import InputError
from seap_export.model.families import names
from seap_export.model.families.family import PRUNED_FROM, Family, is_pruned
from seap_export.model.families.files import common_keys, transformers_keys
from seap_export.model.families.names import OUTPUTS, Projection
from seap_export.model.families.parts import Requirement

_FORMULA = re.compile(r"(\w+)(?: \*\* (-?[0-9.]+))?")
#: Where the code of a pruned model finds the output projections.
PROJECTION_PATHS: Mapping[Projection, str] = {name: f"{name}_path" for name in OUTPUTS}
#: Says that the stock class makes attention as wide as the hidden states, and where layers and shared experts are.
_RESIZED, _LAYERS, _SHARED = "resized_attention", "layers_path", "shared_path"
_USUAL_LAYERS = "model.layers"
#: What vLLM multiplies logits by; some families have it themselves.
LOGIT_SCALE = "logit_scale"
#: Keys that this package writes: these, the biases of output projections, and what vLLM multiplies logits by.
WRITTEN_KEYS = frozenset({
    _RESIZED, _LAYERS, _SHARED, "model_type", "per_layer_config", PRUNED_FROM, LOGIT_SCALE,
    *PROJECTION_PATHS.values(), *(f"{name}_bias" for name in OUTPUTS),
})  # fmt: skip


class ConfigReader:
    """The config.json of a language model of a known family."""

    def __init__(self, family: Family, config: Mapping[str, Any]) -> None:
        self.family = family
        self._given = config
        self._values = family.meant(family.completed(config))
        self._read: set[str] = set()

    @property
    def is_pruned(self) -> bool:
        """Whether seap-export wrote it for a pruned model."""
        return is_pruned(self._given)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a key, by its usual name; the default if it is missing or null."""
        key = self.family.key(name)
        self._read |= {key, name}
        value = self._values.get(key)
        return default if value is None else value

    def given(self, name: str) -> Any:
        """The value of a key in the config itself, without the family's defaults; None if it is missing."""
        self._read.add(name)
        return self._given.get(name)

    def mapping(self, name: str) -> Mapping[str, Any]:
        """The object at a key; empty if it is missing or null."""
        value = self.get(name) or {}
        if not isinstance(value, Mapping):
            raise InputError(
                f"config.json: '{name}' must be an object, not {value!r:.40}; correct it, or download the model again"
            )
        return value

    def of_layer(self, index: int) -> Mapping[str, Any]:
        """The entries of `per_layer_config` for a layer, by their usual names."""
        usual = {key: name for name, key in self.family.keys.items()}
        per_layer = {int(key): value for key, value in self.mapping("per_layer_config").items()}
        return {usual.get(key, key): value for key, value in per_layer.get(index, {}).items()}

    def positive(self, name: str, default: int | None = None) -> int:
        """The value of a key that must be a positive whole number."""
        return positive(self.family.key(name), self.get(name, default))

    def number(self, name: str, default: float | None = None) -> float:
        """The value of a key that must be a number."""
        return number(self.family.key(name), self.get(name, default))

    def formula(self, text: str | None) -> float | None:
        """The value of a formula, `KEY` or `KEY ** EXPONENT`; None if there is none, or its key is missing or null."""
        if text is None:
            return None
        match = _FORMULA.fullmatch(text)
        if match is None:
            raise ValueError(f"family {self.family.model_type}: '{text}' is not a formula")
        key, exponent = match.groups()
        if self.get(key) is None:
            return None
        base = above_zero(key, self.number(key))
        return base if exponent is None else float(base ** float(exponent))

    def product(self, paths: Iterable[str]) -> float:
        """The product of values, 1 where one is missing or null: of keys, `KEY.N` (item N of a list) or formulas."""
        factors = []
        for path in paths:
            if " ** " in path:
                factors.append(self.formula(path) or 1.0)
                continue
            key, _, item = path.partition(".")
            value = self.get(key)
            if item and value is not None:
                if not isinstance(value, list | tuple) or len(value) <= int(item):
                    raise InputError(f"config.json: '{key}' must list at least {int(item) + 1} numbers; correct it")
                value = value[int(item)]
            factors.append(1.0 if value is None else number(key, value))
        return math.prod(factors)

    def refuse_unread(self) -> None:
        """Refuses what would change the model's results unnoticed. Call it when everything has been read."""
        harmless, required = common_keys()
        for key, requirement in {**required, **self.family.requires}.items():
            self._read.add(key)
            if requirement.where is not None and not self._values.get(requirement.where):
                continue
            if requirement.same_as is not None:
                requirement = replace(requirement, value=self.get(requirement.same_as))
            if not _holds(requirement, self._values.get(key)):
                raise InputError(
                    f"config.json: '{key}' is {self._values.get(key)!r:.60}: {requirement.part} is not supported; "
                    "use another model"
                )
        family = self.family
        for rules in (family.adjusted_size, family.key_value_heads, family.shared_caches, family.global_layers):
            self._read |= set() if rules is None else {key for key in vars(rules).values() if key}
        self._read |= {key for variant in self.family.variants for key in variant.when}
        known = self._read | harmless | set(self.family.harmless) | set(self.family.biases.values()) | WRITTEN_KEYS
        unknown = (key for key in self._given if key not in known and not key.startswith("_"))
        # What tools leave, no model reads; but nobody knows what code that comes with a model does.
        read = (key for key in unknown if "auto_map" in self._given or key in transformers_keys())
        refused = next(read, None)
        if refused is not None:
            raise InputError(
                f"config.json: the key '{refused}' is not known for {self.family.model_type}, so what it changes "
                "would be lost; remove it if it changes nothing"
            )


def class_settings(family: Family) -> dict[str, Any]:
    """The keys of config.json that tell the code of a pruned model about its family.

    Where output projections and layers are, if not where most families have them, and whether attention has to be
    resized.
    """
    paths = {
        PROJECTION_PATHS[name]: family.names[name]
        for name in family.outputs
        if family.stored(name, 0) != names.tensor(name, 0)
    }
    layers = family.names["layer"].partition(".{layer}")[0]
    paths |= {} if layers == _USUAL_LAYERS else {_LAYERS: layers}
    if family.experts is not None and family.experts.shared_number:
        paths[_SHARED] = family.names["shared_down_proj"].rpartition(".")[0]
    return {**paths, **({_RESIZED: True} if family.attention_fills_hidden_size else {})}


def _holds(requirement: Requirement, value: Any) -> bool:
    """Whether a value, or each item of a list, is the required one or one of those allowed."""
    if isinstance(value, list | tuple):
        return all(_holds(requirement, item) for item in value)
    if requirement.value is False:
        return not value
    allowed = requirement.value if isinstance(requirement.value, tuple) else (requirement.value,)
    return value is None or value in allowed


def positive(key: str, value: Any) -> int:
    """`value` if it is a positive whole number."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(
            f"config.json: '{key}' must be a positive whole number, not {value!r}; "
            "correct it, or download the model again"
        )
    return value


def number(key: str, value: Any) -> float:
    """`value` if it is a number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(
            f"config.json: '{key}' must be a number, not {value!r}; correct it, or download the model again"
        )
    return float(value)


def above_zero(key: str, value: float) -> float:
    """`value` if it is above 0."""
    if not value > 0:
        raise InputError(f"config.json: '{key}' must be positive, not {value:g}; correct it")
    return value
