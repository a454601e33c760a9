"""Which of the micro models a test runs: few that have every feature between them, or some of each family."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import pytest

from converters.format import lacks
from converters.onnx.graph.dialects.looped import is_looped
from seap_export.model.families import (
    Attention,
    Convolution,
    DeltaNet,
    Experts,
    LayerInput,
    Mlp,
    ModelSpec,
    SharedExpert,
    family_of_model_type,
    model_spec,
)
from seap_export.model.families.family import Family
from support.variations import VARIATIONS, micro_config


def _spec(name: str) -> ModelSpec:
    return model_spec(micro_config(**VARIATIONS[name]))


def _has_experts(name: str) -> bool:
    return any(_spec(name).all(Experts))


#: The last variation of each family, with and without experts, which has the most features.
RICHEST = tuple({(values["model_type"], _has_experts(name)): name for name, values in VARIATIONS.items()}.values())


def _leaves(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """The single values in a spec, as pairs of a field and the value in words."""
    if is_dataclass(value):
        for part in fields(value):
            yield from _leaves(getattr(value, part.name), f"{type(value).__name__}.{part.name}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{where}.{key}")
    elif isinstance(value, tuple | list | frozenset):
        yield where, " ".join(type(item).__name__ for item in value if is_dataclass(item))
        for item in value:
            yield from _leaves(item, where)
    else:
        yield where, str(value)


@cache
def _features(name: str) -> frozenset[tuple[str, str]]:
    """What a spec says: of each field its values, all numbers but 0 and 1 alike, and whether it has several."""
    spec = {key: value for key, value in vars(_spec(name)).items() if key != "family"}
    values = defaultdict[str, set[str]](set)
    for where, value in _leaves(spec, "ModelSpec"):
        values[where].add(value)
    number = re.compile(r"^(?![01](\.0)?$)-?[\d.e-]+$")
    features = {(where, number.sub("a number", word)) for where, words in values.items() for word in words}
    return frozenset(features | {(where, "several") for where, words in values.items() if len(words) > 1})


def featured(variations: Iterable[str]) -> tuple[str, ...]:
    """Few of the richest, whose specs together have every feature: the one with the most further features comes next.

    What works on a `ModelSpec` knows no family, so that it needs no more of them.
    """
    left = {name: _features(name) for name in variations if name in RICHEST}
    chosen: list[str] = []
    while any(left.values()):
        chosen.append(max(left, key=lambda name: len(left[name])))
        covered = left[chosen[-1]]
        left = {name: features - covered for name, features in left.items()}
    return tuple(chosen)


def _marked(variations: Iterable[str], quick: Collection[str]) -> tuple[Any, ...]:
    """Some variations; those that are not quick belong to `make test-all`."""
    return tuple(name if name in quick else pytest.param(name, marks=pytest.mark.full) for name in variations)


def varied(variations: Iterable[str]) -> tuple[Any, ...]:
    """Those with every feature; `make test-all` adds the others."""
    names = tuple(variations)
    return _marked(names, featured(names))


def in_turn(variations: Iterable[str], values: Sequence[Any]) -> list[Any]:
    """Pairs of a variation and a value: each of those with every feature with one value, the next one with the next.

    `make test-all` adds all other pairs.
    """
    names = tuple(variations)
    quick = featured(names)
    return [
        pytest.param(name, value, marks=() if name in quick and at == index % len(values) else pytest.mark.full)
        for index, name in enumerate(sorted(names, key=lambda name: name not in quick))
        for at, value in enumerate(values)
    ]


def _kinds(name: str) -> tuple[frozenset[str], bool]:
    """The kinds of its sublayers, and whether windows limit some."""
    spec = _spec(name)
    kinds = frozenset(type(sublayer).__name__ for sublayer in spec.sublayers)
    return kinds, any(getattr(sublayer, "sliding_window", None) for sublayer in spec.sublayers)


def of_each_kind() -> tuple[Any, ...]:
    """The richest of a family with each set of kinds of layers; `make test-all` adds the others."""
    return _marked(VARIATIONS, {_kinds(name): name for name in RICHEST}.values())


def _family(name: str) -> Family:
    return family_of_model_type(VARIATIONS[name]["model_type"])


#: For what reads a family, or compares it with transformers: the richest of each; `make test-all` adds the others.
OF_EACH_FAMILY = _marked(VARIATIONS, RICHEST)
FEATURED = featured(VARIATIONS)
VARIED = varied(VARIATIONS)
#: Without mixtures of experts: transformers has modules for all their projections.
JOINT = tuple(name for name in VARIATIONS if not _has_experts(name))
VARIED_JOINT = varied(JOINT)
MIXTURES = tuple(name for name in VARIATIONS if _has_experts(name))
#: Those that GPUs run in tests, without and with experts.
ON_GPUS = featured(JOINT)
MIXTURES_ON_GPUS = featured(name for name in MIXTURES if not any(map(is_looped, _spec(name).all(Experts))))
#: Those whose layers are all attention of the usual kind and an MLP, so that they keep nothing but keys and values.
ATTENDING = tuple(name for name in JOINT if lacks(_spec(name), Attention, Mlp) is None)
#: What a layer has in models that MLX runs.
_OF_MLX = (Attention, Convolution, DeltaNet, Experts, LayerInput, Mlp, SharedExpert)
#: Those that MLX runs: these kinds, without attention sinks and norms of sums, in families with RMS norms and gates.
FOR_MLX = tuple(
    name
    for name in VARIATIONS
    if all(isinstance(one, _OF_MLX) and one.norm_of_sum is None for one in _spec(name).sublayers)
    and not any(one.has_sinks for one in _spec(name).all(Attention))
    and _family(name).block.is_gated
    and _family(name).block.norm == "rms"
)
#: The richest whose norms have weights, so that their epsilon can be changed in transformers' class, too.
SCALABLE = tuple(name for name in RICHEST if _family(name).block.norm_weight)
