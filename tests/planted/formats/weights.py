"""Faults in the numbers of any format: rows, heads, tensors, levels, scales and zero points of other weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from planted.formats.planting import DAMAGE, PARITY, Base, FormatFault, Opener, Parts, Plant, Subject

from seap_export.model.families import names

Edit = Callable[[Parts], None]
Change = Callable[[NDArray[Any]], None]


@dataclass(frozen=True)
class _Kind:
    """A kind of fault.

    Attributes:
        id: Its name.
        tensors: What it changes, of each the first name that the model has.
        edit: Changes the arrays of one tensor, or of two.
        on: Whether numbers are to be floats, levels, or either.
    """

    id: str
    tensors: tuple[tuple[str, ...], ...]
    edit: Callable[..., None]
    on: str = "either"


def _all(change: Change) -> Edit:
    """Changes numbers, scales and zero points alike."""

    def edit(parts: Parts) -> None:
        for array in parts.values():
            change(array)

    return edit


def _part(name: str, change: Change) -> Edit:
    return lambda parts: change(parts[name])


def _swapped(*rows: int) -> Change:
    def change(array: NDArray[Any]) -> None:
        array[list(rows)] = array[list(rows[::-1])]

    return change


def _shifted(by: int) -> Change:
    def change(array: NDArray[Any]) -> None:
        array[:] = np.roll(array, by, 0)

    return change


def _copied(array: NDArray[Any]) -> None:
    array[5] = array[4]


def _times(factor: float, where: Any = slice(None)) -> Change:
    def change(array: NDArray[Any]) -> None:
        array[where] = (array[where].astype(np.float64) * factor).astype(array.dtype)

    return change


def _set(value: float, where: Any = slice(None)) -> Change:
    def change(array: NDArray[Any]) -> None:
        array[where] = value

    return change


def _plus(number: float, where: Any = slice(None)) -> Change:
    def change(array: NDArray[Any]) -> None:
        array[where] = array[where] + array.dtype.type(number)

    return change


def _one_up(where: Any = slice(None)) -> Change:
    """By a level, or by a little if zero points are no levels."""

    def change(array: NDArray[Any]) -> None:
        array[where] += array.dtype.type(1 if np.issubdtype(array.dtype, np.integer) else 0.02)

    return change


def _one_off(array: NDArray[Any]) -> None:
    """The smallest number of the largest row becomes a tenth of the largest: small, and far from what it was."""
    row = int(np.abs(array.astype(np.float64)).sum(1).argmax())
    column = int(np.abs(array[row]).argmin())
    array[row, column] += array.dtype.type(np.abs(array[row].astype(np.float64)).max() / 10)


def _reversed_row(array: NDArray[Any]) -> None:
    array[3] = array[3][::-1].copy()


def _columns_swapped(array: NDArray[Any]) -> None:
    array[:, [0, 1]] = array[:, [1, 0]]


def _flipped(bit: int, where: Any) -> Change:
    """Flips a bit of bytes, each of which holds a level or two."""

    def change(array: NDArray[Any]) -> None:
        octets = array.view(np.uint8)
        octets[where] ^= np.uint8(1 << bit)

    return change


def _nibbles(array: NDArray[Any]) -> None:
    octets = array.view(np.uint8)
    octets[:] = octets << np.uint8(4) | octets >> np.uint8(4)


def _exchanged(one: Parts, other: Parts) -> None:
    for name, array in one.items():
        array[...], other[name][...] = other[name].copy(), array.copy()


def _of(projection: str, layer: int) -> str:
    return names.weight(projection, layer)  # type: ignore[arg-type]


_Q, _K, _V, _O = ((_of(f"{part}_proj", 1),) for part in "qkvo")
_UP, _DOWN = ((_of(f"{part}_proj", 2), _of(f"experts_{part}_proj", 2)) for part in ("up", "down"))
_GATE = (_of("gate_proj", 2), _of("experts_gate_proj", 2))
_TABLE, _HEAD = (names.tensor("embed_tokens"),), (names.tensor("lm_head"),)
_NORM = (names.tensor("norm"),)
_FIRST, _SECOND = (
    tuple(names.tensor(name, 1) for name in ("input_layernorm", "post_self_attn_layernorm")),
    tuple(names.tensor(name, 1) for name in ("post_attention_layernorm", "post_mlp_layernorm")),
)
_O_BIAS, _DOWN_BIAS = (names.bias("o_proj", 1),), (names.bias("down_proj", 1),)
_Q_BIAS = (names.bias("q_proj", 1),)
_Q_NORM = (names.tensor("q_norm", 1),)
_ROUTER = (_of("router", 2),)

_KINDS: tuple[_Kind, ...] = (
    _Kind("two rows of q swapped", (_Q,), _all(_swapped(0, 1))),
    _Kind("heads of q shifted", (_Q,), _all(_shifted(16))),
    _Kind("rows of k shifted", (_K,), _all(_shifted(1))),
    _Kind("a row of v copied over the next", (_V,), _all(_copied)),
    _Kind("k and v exchanged", (_K, _V), _exchanged),
    _Kind("gate and up exchanged", (_GATE, _UP), _exchanged),
    _Kind("a row of o is zero", (_O,), _part("numbers", _set(0, 7)), "float"),
    _Kind("rows of the embedding shifted", (_TABLE,), _all(_shifted(1))),
    _Kind("two tokens of the embedding swapped", (_TABLE,), _all(_swapped(40, 41))),
    _Kind("two tokens of the LM head swapped", (_HEAD,), _all(_swapped(40, 41))),
    _Kind("a row of down backwards", (_DOWN,), _part("numbers", _reversed_row)),
    _Kind("two rows of the router swapped", (_ROUTER,), _all(_swapped(0, 1))),
    _Kind("norms of a layer exchanged", (_FIRST, _SECOND), _exchanged),
    _Kind("the last norm 1 % larger", (_NORM,), _part("numbers", _times(1.01))),
    _Kind("a gain has another sign", (_FIRST,), _part("numbers", _times(-1, 3))),
    _Kind("gains lack their one", (_NORM,), _part("numbers", _plus(-1))),
    _Kind("the gain of queries shifted", (_Q_NORM,), _part("numbers", _shifted(1))),
    _Kind("the bias of o is zero", (_O_BIAS,), _part("numbers", _set(0))),
    _Kind("the bias of down has another sign", (_DOWN_BIAS,), _part("numbers", _times(-1))),
    _Kind("the bias of q shifted", (_Q_BIAS,), _part("numbers", _shifted(1))),
    _Kind("a gain is NaN", (_NORM,), _part("numbers", _set(np.nan, 9))),
    _Kind("one number off", (_UP,), _part("numbers", _one_off), "float"),
    _Kind("one number of the embedding off", (_TABLE,), _part("numbers", _one_off), "float"),
    _Kind("weights 1 % larger", (_O,), _part("numbers", _times(1.01)), "float"),
    _Kind("a weight is NaN", (_DOWN,), _part("numbers", _set(np.nan, (2, 3))), "float"),
    _Kind("a weight is infinite", (_TABLE,), _part("numbers", _set(np.inf, (2, 3))), "float"),
    _Kind("a column of q for another", (_Q,), _part("numbers", _columns_swapped), "float"),
    _Kind("a row has another sign", (_V,), _part("numbers", _times(-1, 2)), "float"),
    _Kind("a level off by one", (_UP,), _part("numbers", _flipped(0, (3, ..., 5))), "levels"),
    _Kind("a level off by far", (_O,), _part("numbers", _flipped(3, (6, ..., 2))), "levels"),
    _Kind("a level of the embedding off", (_TABLE,), _part("numbers", _flipped(2, (40, ..., 1))), "levels"),
    _Kind("halves of bytes swapped", (_Q,), _part("numbers", _nibbles), "levels"),
    _Kind("levels of a row are zero bytes", (_V,), _part("numbers", _set(0, 4)), "levels"),
    _Kind("two rows of levels swapped, not their scales", (_K,), _part("numbers", _swapped(2, 9)), "levels"),
    _Kind("scales of other rows", (_UP,), _part("scales", _shifted(1)), "levels"),
    _Kind("a scale 5 % larger", (_O,), _part("scales", _times(1.05, 3)), "levels"),
    _Kind("all scales doubled", (_DOWN,), _part("scales", _times(2)), "levels"),
    _Kind("a scale is zero", (_Q,), _part("scales", _set(0, 5)), "levels"),
    _Kind("a scale has another sign", (_V,), _part("scales", _times(-1, 5)), "levels"),
    _Kind("a scale is NaN", (_UP,), _part("scales", _set(np.nan, 1)), "levels"),
    _Kind("a scale is infinite", (_TABLE,), _part("scales", _set(np.inf, 50)), "levels"),
    _Kind("zero points one up", (_O,), _part("points", _one_up()), "points"),
    _Kind("a zero point off", (_UP,), _part("points", _one_up(3)), "points"),
    _Kind("zero points of other rows", (_DOWN,), _part("points", _shifted(1)), "points"),
)


def weight_faults(subject: Subject) -> Iterator[FormatFault]:
    """Each kind once, in artifacts in turn: in the next one whose model has such tensors."""
    bases = list(subject.bases)
    for index, kind in enumerate(kind for kind in _KINDS if kind.id not in subject.lacks):
        for base_name in (*bases[index % len(bases) :], *bases[: index % len(bases)]):
            if tensors := _tensors(kind, subject, subject.bases[base_name]):
                codes = (PARITY, DAMAGE) if kind.on == "points" else (PARITY,)
                plant = _planting(subject.open, kind.edit, tensors)
                yield FormatFault(f"{base_name}: {kind.id}", base_name, plant, codes)
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
