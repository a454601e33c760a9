"""Cases behind a cache that is filled with random numbers, where a model changes how it computes after many tokens.

A window that ends, a rotation with other frequencies and a factor on queries are code that no shorter text runs. On
both sides the cache holds the same numbers, which costs little but memory, and the tokens that follow cross the place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

from seap_export.model.families import Attention, ModelSpec
from validation.prompts import Case
from validation.runtimes.runner import States

#: Tokens before the place, in one call that ends at it, and the most decode steps beyond it.
_BEFORE, _STEPS = 4, 4
#: Bytes of a cache that is not filled any more.
_MOST_BYTES = 1 << 30
#: Numbers are multiples of 1 / _PARTS and below 4, which float16 and bfloat16 hold exactly.
_PARTS = 32


@dataclass(frozen=True)
class Switch:
    """A place where a model begins to compute differently."""

    tokens: int
    what: str


def switches(spec: ModelSpec, context: int) -> list[Switch]:
    """The switches of a model in texts of up to `context` tokens, in order."""
    found = [
        *(Switch(one.sliding_window, "window") for one in spec.all(Attention) if one.sliding_window is not None),
        *(Switch(rope.switches_at, "rotation") for rope in spec.ropes if rope.switches_at is not None),
        *(Switch(one.query_scaling.context, "factor on queries") for one in spec.all(Attention) if one.query_scaling),
    ]
    return sorted({one for one in found if one.tokens < context}, key=lambda one: (one.tokens, one.what))


def filled_cases(
    cases: Sequence[Case], spec: ModelSpec, context: int, runtime: str | None
) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """The cases that cross switches which no other case crosses, and in words the switches that remain uncrossed."""
    longest = max(len(row) + len(forced) for case in cases for row, forced in zip(case.rows, case.forced, strict=True))
    left = [switch for switch in switches(spec, context) if switch.tokens >= longest]
    added, uncrossed = dict[int, Case](), list[str]()
    for one in left:
        why = _obstacle(spec, one.tokens, runtime)
        if why is None:
            added.setdefault(one.tokens, _case(cases[0], one.tokens, min(_STEPS, context - one.tokens)))
        else:
            uncrossed.append(
                f"the {one.what} that changes at {one.tokens} tokens was not crossed: {why}, and the longest text had "
                f"{longest}; --long-tokens {one.tokens + len(cases[0].forced[0])} runs a longer one"
            )
    return tuple(added.values()), tuple(uncrossed)


def _obstacle(spec: ModelSpec, tokens: int, runtime: str | None) -> str | None:
    """Why a cache is not filled with so many tokens; None: it is."""
    if runtime is not None:
        return f"{runtime} takes no cache from outside"
    if any(set(sublayer.states) - {"key", "value"} for sublayer in spec.sublayers) or spec.cached_of:
        return "not all states of the model can be made up"
    size = 8 * tokens * sum(attention.num_key_value_heads * attention.head_dim for attention in spec.all(Attention))
    return f"its cache would take {size / 1e9:.1f} GB" if size > _MOST_BYTES else None


def _case(first: Case, tokens: int, steps: int) -> Case:
    """A call that ends at the place, with tokens of the first prompt, and steps beyond it."""
    before = min(_BEFORE, tokens - 1)
    ids = tuple(islice(cycle(first.rows[0]), before + steps))
    return Case(f"filled cache of {tokens}", (ids[:before],), (ids[before:],), filled=tokens - before, in_float=True)


def filling(spec: ModelSpec, tokens: int) -> Iterator[States]:
    """The keys and values of each layer that has any; see `layer_filling`."""
    for index, layer in enumerate(spec.layers):
        if any(sublayer.states for sublayer in layer.sublayers):
            yield layer_filling(spec, index, tokens)


def layer_filling(spec: ModelSpec, index: int, tokens: int) -> States:
    """The keys and values of earlier tokens in a layer, float32 [KV heads, tokens, head_dim] each.

    They are random. The first values, which leave a window first, are so large that one of them shows beside as many
    others as the window has.
    """
    attention = spec.layers[index][Attention]
    shape = (attention.num_key_value_heads, tokens, attention.head_dim)
    chance = np.random.default_rng([0, index])
    key, value = (_multiples(chance.standard_normal(shape, np.float32)) for _ in range(2))
    value[:, : _BEFORE + _STEPS] *= 2.0 ** max(0, tokens.bit_length() - 6)
    return {"key": key, "value": value}


def _multiples(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    most = 4 - 1 / _PARTS
    rounded: NDArray[np.float32] = np.clip(np.round(numbers * _PARTS) / _PARTS, -most, most).astype(np.float32)
    return rounded
