"""Wrong levels, scales and zero points of int8, int4, w8a8 and w4a8 weights."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
from planted.editing import Artifact
from planted.fault import PARITY, Change, Fault, numeric, quiet, structural
from planted.graphs.graph import Edit, Graph, edited
from planted.graphs.weights import Array, columns_of
from support.editing import edit_json

from converters.formats import read_format
from seap_export.model.families import names
from seap_export.model.families.family import Projection


def _part(layer: int, projection: Projection, part: str, change: Callable[[Array], Any]) -> Edit:
    """Alters what belongs to one projection [out, ...] of `packed`, `scales` or `zero_points`."""

    def edit(graph: Graph) -> None:
        stem, rows = columns_of(graph, layer, projection)
        _change(graph, f"{stem}.weight.{part}", rows, change)

    return edit


def _table(name: str, part: str, change: Callable[[Array], Any]) -> Edit:
    return lambda graph: _change(graph, f"{name}.weight.{part}", slice(None), change)


def _change(graph: Graph, name: str, rows: slice, change: Callable[[Array], Any]) -> None:
    values = graph[name]
    changed = change(values[rows].copy())
    assert not np.array_equal(changed, values[rows])
    values[rows] = changed
    graph[name] = values


def _of_rows(layer: int, projection: Projection, part: str, change: Callable[[Array], Any]) -> Edit:
    """Alters what belongs to one projection of w8a8 or w4a8: `packed` and `steps` [..., out], or `scales` [out]."""

    def edit(graph: Graph) -> None:
        stem, rows = columns_of(graph, layer, projection)
        name = f"{stem}.weight.{part}"
        values = graph[name]
        changed = change(values.T[rows].copy())
        assert not np.array_equal(changed, values.T[rows])
        values.T[rows] = changed
        graph[name] = values

    return edit


def _all_scales_shifted(scales: Array) -> Array:
    return np.roll(scales, 1, axis=0)


def _a_scale_doubled(scales: Array) -> Array:
    scales[5, 0] *= 2
    return scales


def _scale_doubled(scales: Array) -> Array:
    scales[5] *= 2
    return scales


def _a_step_more(steps: Array) -> Array:
    steps[2, 0, 0] += 1
    return steps


def _row_one_up(levels: Array) -> Array:
    levels[3] = np.minimum(levels[3], 126) + 1
    return levels


def _a_scale_negated(scales: Array) -> Array:
    scales[2, -1] *= -1
    return scales


def _points_of_a_row_one_down(points: Array) -> Array:
    points[4] = np.maximum(points[4] & 15, 1) - 1 | (points[4] & 240)
    return points


def _nibbles_swapped(packed: Array) -> Array:
    return packed << 4 | packed >> 4


def _rows_swapped(packed: Array) -> Array:
    packed[[1, 6]] = packed[[6, 1]]
    return packed


def _a_level_up(packed: Array) -> Array:
    packed[3, 0] = np.minimum(packed[3, 0], 254) + 1
    return packed


def _bits_from_other_planes(packed: Array) -> Array:
    return np.roll(packed, packed.shape[2] // 2, axis=2)


def _noted(layer: int, projection: Projection, edit: Edit) -> Change:
    """Alters a projection and its digest in the note, and leaves no rounded model to compare it with."""

    def change(artifact: Artifact) -> None:
        edited(edit)(artifact)
        name = names.weight(projection, layer)
        stored = read_format(artifact.onnx).weights(artifact.onnx, artifact.spec).read([name])[name]
        digest = hashlib.sha256((stored + 0.0).numpy().tobytes()).hexdigest()
        edit_json(artifact.onnx / "rounding.json", lambda note: note["rounded"].update({name: [digest]}))
        shutil.rmtree(artifact.out / "rounding")

    return change


def _constant_doubled(prefix: str) -> Edit:
    """Changes a constant with which weights of few bits are unpacked."""

    def edit(graph: Graph) -> None:
        name = next(tensor.name for tensor in graph.proto.graph.initializer if tensor.name.startswith(prefix))
        graph[name] = graph[name] * 2

    return edit


FAULTS: tuple[Fault, ...] = (
    numeric("scale", "int4: a scale negated", "int4", _part(0, "gate_proj", "scales", _a_scale_negated), layer=0),
    numeric("weight", "int4: nibbles swapped", "int4", _part(1, "v_proj", "packed", _nibbles_swapped), layer=1),
    numeric(
        "scale", "int4: scales of the LM head shifted", "int4", _table("lm_head", "scales", _all_scales_shifted), None
    ),
    quiet(
        "scale",
        "int4: o_proj negated, and noted so",
        "int4",
        _noted(1, "o_proj", _part(1, "o_proj", "scales", np.negative)),
        codes=(PARITY,),
        layer=1,
    ),
    numeric("scale", "w8a8: a scale doubled", "rows", _of_rows(1, "q_proj", "scales", _scale_doubled), layer=1),
    numeric("weight", "w8a8: a row one up", "rows", _of_rows(1, "up_proj", "packed", _row_one_up), layer=1),
    structural("constant", "w8a8: steps of another size", "rows", _constant_doubled("level_step")),
    numeric(
        "scale", "w4a8: a block with one step more", "steps", _of_rows(1, "q_proj", "steps", _a_step_more), layer=1
    ),
    numeric("weight", "w4a8: two rows swapped", "steps", _of_rows(1, "v_proj", "packed", _rows_swapped), layer=1),
    numeric("scale", "w4a8: a step doubled", "steps", _of_rows(0, "o_proj", "scales", _scale_doubled), layer=0),
    numeric("scale", "mixed: a scale doubled", "mixed", _part(1, "q_proj", "scales", _a_scale_doubled), layer=1),
    numeric("bits", "mixed: planes swapped", "mixed", _part(0, "up_proj", "packed", _bits_from_other_planes), layer=0),
    numeric(
        "weight",
        "mixed: places in the LM head swapped",
        "mixed",
        _table("lm_head", "places", _rows_swapped),
        layer=None,
    ),
    structural("constant", "mixed: rows of another kernel", "mixed", _constant_doubled("embed_tokens.end")),
    structural("constant", "mixed: bits of a plane left out", "mixed", _constant_doubled("mask_")),
    numeric(
        "zero point",
        "asymmetric: zero points of a row one down",
        "points",
        _part(2, "gate_proj", "zero_points", _points_of_a_row_one_down),
        layer=2,
    ),
    numeric("weight", "int8: a block one up", "window", _part(1, "up_proj", "packed", _a_level_up), layer=1),
    numeric("scale", "int8: a scale doubled", "window", _part(2, "q_proj", "scales", _a_scale_doubled), layer=2),
)
