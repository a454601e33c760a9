"""Faults in the numbers of any format: rows, heads, tensors, levels, scales and zero points of other weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from planted.fault import Kind
from planted.formats.planting import DAMAGE, PARITY, Base, FormatFault, Opener, Parts, Plant, Subject

from seap_export.model.families import names


@dataclass(frozen=True)
class _Kind:
    """An edit of one tensor or two, each the first of some names that the model has; of floats, levels or either."""

    kind: Kind
    id: str
    tensors: tuple[tuple[str, ...], ...]
    edit: Callable[..., None]
    on: str = "either"


def _rows_swapped(parts: Parts) -> None:
    for array in parts.values():
        array[[0, 1]] = array[[1, 0]]


def _one_off(parts: Parts) -> None:
    """The smallest number of the largest row becomes a tenth of the largest: small, and far from what it was."""
    array = parts["numbers"]
    row = int(np.abs(array.astype(np.float64)).sum(1).argmax())
    column = int(np.abs(array[row]).argmin())
    array[row, column] += array.dtype.type(np.abs(array[row].astype(np.float64)).max() / 10)


def _level_off(parts: Parts) -> None:
    """A bit of bytes, each of which holds a level or two."""
    octets = parts["numbers"].view(np.uint8)
    octets[3, ..., 5] ^= np.uint8(1)


def _scales_shifted(parts: Parts) -> None:
    parts["scales"][:] = np.roll(parts["scales"], 1, 0)


def _point_up(parts: Parts) -> None:
    """By a level, or by a little if zero points are no levels."""
    points = parts["points"]
    points[3] += points.dtype.type(1 if np.issubdtype(points.dtype, np.integer) else 0.02)


def _exchanged(one: Parts, other: Parts) -> None:
    for name, array in one.items():
        array[...], other[name][...] = other[name].copy(), array.copy()


def _of(projection: str, layer: int) -> str:
    return names.weight(projection, layer)  # type: ignore[arg-type]


_Q, _K, _V, _O = ((_of(f"{part}_proj", 1),) for part in "qkvo")
_UP, _DOWN = ((_of(f"{part}_proj", 2), _of(f"experts_{part}_proj", 2)) for part in ("up", "down"))
_FIRST, _SECOND = (
    tuple(names.tensor(name, 1) for name in ("input_layernorm", "post_self_attn_layernorm")),
    tuple(names.tensor(name, 1) for name in ("post_attention_layernorm", "post_mlp_layernorm")),
)

_KINDS: tuple[_Kind, ...] = (
    _Kind("weight", "two rows of q swapped", (_Q,), _rows_swapped),
    _Kind("weight", "k and v exchanged", (_K, _V), _exchanged),
    _Kind("weight", "norms of a layer exchanged", (_FIRST, _SECOND), _exchanged),
    _Kind("weight", "one number off", (_UP,), _one_off, "float"),
    _Kind("weight", "a level off by one", (_UP,), _level_off, "levels"),
    _Kind("scale", "scales of other rows", (_UP,), _scales_shifted, "levels"),
    _Kind("zero point", "a zero point off", (_UP,), _point_up, "points"),
)


def weight_faults(subject: Subject) -> Iterator[FormatFault]:
    """Each kind, those of levels in each artifact that has any, and the others in artifacts in turn."""
    bases = list(subject.bases)
    for index, kind in enumerate(_KINDS):
        for base in (*bases[index % len(bases) :], *bases[: index % len(bases)]):
            if tensors := _tensors(kind, subject, subject.bases[base]):
                codes = (PARITY, DAMAGE) if kind.on == "points" else (PARITY,)
                yield FormatFault(
                    kind.kind, f"{base}: {kind.id}", base, _planting(subject.open, kind.edit, tensors), codes
                )
                if kind.on in ("either", "float"):
                    break


def _tensors(kind: _Kind, subject: Subject, base: Base) -> tuple[str, ...]:
    """What a kind changes in an artifact; nothing if its model, or its precision, has no such tensors."""
    present = base.spec.tensors()
    found = tuple(next((name for name in candidates if name in present), "") for candidates in kind.tensors)
    if "" in found or len({present[name] for name in found}) > 1:
        return ()
    return found if kind.on == "either" or kind.on in subject.holds(base, found[0]) else ()


def _planting(opened: Opener, edit: Callable[..., None], tensors: tuple[str, ...]) -> Plant:
    return lambda made: edit(*(opened(made, name) for name in tensors))
