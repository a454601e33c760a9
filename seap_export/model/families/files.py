"""Loads the families that have a TOML file in this package, and the names of those that are refused."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

from seap_export.common.values import members_of
from seap_export.errors import InputError
from seap_export.model.families import parts
from seap_export.model.families.family import FUSED, PRUNED_PREFIX, Family, bias_names, lacking_projections
from seap_export.model.families.names import CONVOLUTION, DENSE, MAMBA, QKV, USUAL_NAMES, Projection
from seap_export.model.families.routing import Routing

_COMMON, _REFUSED = "common.toml", "refused.toml"
_TRANSFORMERS = "transformers_keys.txt"
_PARTS = {
    "adjusted_size": parts.AdjustedSize,
    "block": parts.Block,
    "experts": Routing,
    "gguf": parts.GgufForm,
    "global_layers": parts.GlobalLayers,
    "key_value_heads": parts.KeyValueHeads,
    "rotation": parts.RotaryRules,
    "shared_caches": parts.SharedCaches,
    "window": parts.Window,
}
#: Projections that mostly have biases together, by what `biases` calls them; one may be named besides.
_GROUPS: Mapping[str, tuple[Projection, ...]] = {
    "attention": (*QKV, "g_proj", "o_proj"),
    "qkv": QKV,
    "mlp": DENSE,
    "convolution": CONVOLUTION,
    "mamba": MAMBA,
}
#: What a family that is like another does not take over: files that hold its models.
_OWN = ("gguf", "variants", "wrappers")


@cache
def transformers_keys() -> frozenset[str]:
    """The keys of configs that transformers reads, of any model that writes texts: `support.transformers_keys` of the
    tests lists them."""
    return frozenset(resources.files(__package__).joinpath(_TRANSFORMERS).read_text("utf-8").split())


@cache
def families() -> tuple[Family, ...]:
    """All families, sorted by the names of their files."""
    names = sorted(file.name for file in resources.files(__package__).iterdir() if file.name.endswith(".toml"))
    return tuple(_parse(_table(name)) for name in names if name not in (_COMMON, _REFUSED))


@cache
def _table(name: str) -> dict[str, Any]:
    """A family's file, with all that the one it is `like` says, apart from what it is `without`."""
    table = tomllib.loads((resources.files(__package__) / name).read_text("utf-8"))
    if like := table.pop("like", None):
        left_out = table.get("without", [])
        taken_over = {key: value for key, value in _table(f"{like}.toml").items() if key not in _OWN}
        table = _merged(_without(taken_over, left_out), table)
        table["without"] = [*taken_over.get("without", ()), *left_out]
    return table


def _without(table: Mapping[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
    """A table without some of its keys, such as `window`, or of those of its tables, such as `defaults.head_dim`."""
    return {
        key: {inner: each for inner, each in value.items() if f"{key}.{inner}" not in left_out}
        if isinstance(value, dict)
        else value
        for key, value in table.items()
        if key not in left_out
    }


def _merged(table: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """All tables of both, and where a key is in both, the value of the other."""
    return {
        **table,
        **{key: {**table.get(key, {}), **value} if isinstance(value, dict) else value for key, value in other.items()},
    }


def _parse(whole: dict[str, Any]) -> Family:
    table = {key: value for key, value in whole.items() if key not in ("without", "biases", "names")}
    parsed = {key: _parsed(key, _frozen(value)) for key, value in table.items()}
    given = whole.get("names", {})
    lacking = lacking_projections(
        parsed.get("block", parts.Block()),
        parsed.get("layer_types", {}),
        parsed.get("experts"),
        "layer_inputs" in given,
    )
    absent = lacking | {name for name in USUAL_NAMES if f"names.{name}" in whole.get("without", ())}
    stored_names = _names(given, absent)
    parsed["wrappers"] = tuple(_wrappers(whole["model_type"], parsed.get("wrappers", ())))
    given_biases = whole.get("biases", {})
    of_groups = {name: given_biases[of] for of in _GROUPS if of in given_biases for name in _GROUPS[of]}
    biases: dict[str, Any] = {name: switch for name, switch in of_groups.items() if name not in lacking}
    biases |= {name: switch for name, switch in given_biases.items() if name not in _GROUPS}
    stored_names |= bias_names(stored_names, biases)
    return Family(**parsed | {"names": MappingProxyType(stored_names), "biases": MappingProxyType(biases)})


def _wrappers(family: str, tables: Iterable[Mapping[str, Any]]) -> Iterator[parts.Wrapper]:
    for table in tables:
        given = table["model_type"]
        for model_type in (given,) if isinstance(given, str) else given:
            default = f"{model_type}_text" if table.get("has_sections") else family
            yield parts.Wrapper(**{"default": default, **table, "model_type": model_type})


def _names(stored_names: Mapping[str, str], lacking: frozenset[str]) -> dict[str, str]:
    """The given names, and the usual ones of all other tensors that are stored by themselves."""
    parts = {part for fused in FUSED if fused in stored_names for part in FUSED[fused]}
    absent = parts | lacking
    return {**{name: usual for name, usual in USUAL_NAMES.items() if name not in absent}, **stored_names}


def _parsed(key: str, value: Any) -> Any:
    if key in _PARTS:
        return _part(key, _PARTS[key], value)
    if key == "layer_types":
        return MappingProxyType({word: (kind,) if isinstance(kind, str) else kind for word, kind in value.items()})
    if key == "fused_rows":
        return MappingProxyType({name: parts.FusedRows(**fields) for name, fields in value.items()})
    if key == "variants":
        return tuple(parts.FamilyVariant(**fields) for fields in value)
    if key == "requires":
        return MappingProxyType({name: parts.Requirement(**fields) for name, fields in value.items()})
    return value


def _part(key: str, cls: Any, table: Mapping[str, Any]) -> Any:
    """A part of a family's description; raises `ValueError` for a word that there is not."""
    for name, hint in get_type_hints(cls).items():
        words = [word for member in members_of(hint) for word in get_args(member) or (member,)]
        if name in table and all(isinstance(word, str) for word in words) and table[name] not in words:
            raise ValueError(f"{key}.{name} cannot be '{table[name]}'; write one of {', '.join(words)}")
    return cls(**table)


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return MappingProxyType({key: _frozen(inner) for key, inner in value.items()})
    return tuple(_frozen(inner) for inner in value) if isinstance(value, list) else value


@cache
def common_keys() -> tuple[frozenset[str], Mapping[str, parts.Requirement]]:
    """The keys that do not change what any family computes, and what is required of others."""
    table = tomllib.loads((resources.files(__package__) / _COMMON).read_text("utf-8"))
    return frozenset(table["harmless"]), {
        name: parts.Requirement(**fields) for name, fields in table["requires"].items()
    }


@cache
def refused_models() -> Mapping[str, tuple[str, ...]]:
    """The `model_type` of models that are refused, by the part of theirs that is not supported."""
    table = tomllib.loads((resources.files(__package__) / _REFUSED).read_text("utf-8"))
    return {part: tuple(model_types) for part, model_types in table.items()}


def wrapper_of_model_type(model_type: str | None) -> parts.Wrapper | None:
    """The multimodal wrapper with this `model_type`; None: it is none, or not one with a supported language model."""
    wrappers = (wrapper for family in families() for wrapper in family.wrappers)
    return next((wrapper for wrapper in wrappers if wrapper.model_type == model_type), None)


def family_in_wrapper(wrapper: parts.Wrapper, model_type: str) -> Family:
    """The family of a wrapper's language model, by what the wrapper calls it."""
    if wrapper.has_sections and model_type == wrapper.default:
        return next(family for family in families() if wrapper in family.wrappers)
    family = family_of_model_type(model_type)
    if wrapper.model_type not in (known.model_type for known in family.wrappers):
        raise InputError(
            f"config.json: a {model_type} model in a {wrapper.model_type} model is not supported; use another"
        )
    return family


def family_of_model_type(model_type: str | None) -> Family:
    """The family of a `model_type`, of a dense model or of one pruned by seap-export."""
    plain = str(model_type or "").removeprefix(PRUNED_PREFIX)
    for family in families():
        if family.model_type == plain:
            return family
    names = {plain, plain.removesuffix("_text")}
    part = next((part for part, model_types in refused_models().items() if names.intersection(model_types)), None)
    if part is not None:
        raise InputError(f"model family '{model_type}' is not supported: {part}; use another model")
    raise InputError(f"model family '{model_type}' is not supported; use one that docs/families.md lists")


def family_of_gguf(architecture: str) -> Family:
    """The family of a GGUF file's `general.architecture`."""
    supported = {family.gguf.architecture: family for family in families() if family.gguf and family.gguf.is_read}
    supported |= {family.gguf.uneven: family for family in supported.values() if family.gguf and family.gguf.uneven}
    if architecture not in supported:
        raise InputError(
            f"GGUF architecture '{architecture}' is not supported; supported architectures: {', '.join(supported)}"
        )
    return supported[architecture]
