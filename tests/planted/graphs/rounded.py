"""Wrong levels, scales and zero points of int8, int4, w8a8, w4a8 and mixed weights."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
from planted.editing import Artifact
from planted.fault import PARITY, Change, Fault, numeric, quiet, structural
from planted.graphs.graph import Array, Edit, at, edited, projection, scaled, weight
from planted.graphs.graph import Change as ArrayChange
from support.editing import edit_json

from converters.formats import read_format
from seap_export.model.families import names
from seap_export.model.families.family import Projection

_LEVELS, _SCALES, _STEPS = "weight.packed", "weight.scales", "weight.steps"


def _doubled(values: Array) -> Array:
    return values * 2


def _up_to(most: int) -> ArrayChange:
    """A level more, where there is one."""
    return lambda levels: np.minimum(levels, most - 1) + 1


def _reversed(rows: Array) -> Array:
    return rows[::-1]


def _point_down(points: Array) -> Array:
    """The low nibble of each byte."""
    return np.maximum(points & 15, 1) - 1 | points & 240


def _noted(layer: int, name: Projection, edit: Edit) -> Change:
    """Alters a projection and its digest in the note, and leaves no rounded model to compare it with."""

    def change(artifact: Artifact) -> None:
        edited(edit)(artifact)
        tensor = names.weight(name, layer)
        stored = read_format(artifact.onnx).weights(artifact.onnx, artifact.spec).read([tensor])[tensor]
        digest = hashlib.sha256((stored + 0.0).numpy().tobytes()).hexdigest()
        edit_json(artifact.onnx / "rounding.json", lambda note: note["rounded"].update({tensor: [digest]}))
        shutil.rmtree(artifact.out / "rounding")

    return change


def _constant_doubled(prefix: str) -> Edit:
    """Changes a constant with which weights of few bits are unpacked."""
    return lambda graph: scaled(graph.names(prefix)[0], 2)(graph)


_NEGATED_O = _noted(1, "o_proj", projection(1, "o_proj", _SCALES, np.negative))
_A_ROW_UP = projection(1, "up_proj", _LEVELS, at(3, _up_to(127)), last=True)
_A_STEP_MORE = projection(1, "q_proj", _STEPS, at((2, 0, 0), lambda step: step + 1), last=True)
_TWO_ROWS = projection(1, "v_proj", _LEVELS, at([1, 6], _reversed), last=True)
_PLANES = projection(0, "up_proj", _LEVELS, lambda packed: np.roll(packed, packed.shape[2] // 2, axis=2))
_PLACES = weight("lm_head.weight.places", at([1, 6], _reversed))
FAULTS: tuple[Fault, ...] = (
    numeric(
        "scale", "int4: a scale negated", "int4", projection(0, "gate_proj", _SCALES, at((2, -1), np.negative)), 0
    ),
    quiet("scale", "int4: o_proj negated, and noted so", "int4", _NEGATED_O, codes=(PARITY,), layer=1),
    numeric(
        "zero point",
        "asymmetric: zero points of a row one down",
        "points",
        projection(2, "gate_proj", "weight.zero_points", at(4, _point_down)),
        2,
    ),
    numeric("weight", "int8: a level one up", "window", projection(1, "up_proj", _LEVELS, at((3, 0), _up_to(255))), 1),
    numeric("scale", "int8: a scale doubled", "window", projection(2, "q_proj", _SCALES, at((5, 0), _doubled)), 2),
    numeric("scale", "w8a8: a scale doubled", "rows", projection(1, "q_proj", _SCALES, at(5, _doubled), last=True), 1),
    numeric("weight", "w8a8: a row one up", "rows", _A_ROW_UP, 1),
    structural("constant", "w8a8: steps of another size", "rows", _constant_doubled("level_step")),
    numeric("scale", "w4a8: a block with one step more", "steps", _A_STEP_MORE, 1),
    numeric("weight", "w4a8: two rows swapped", "steps", _TWO_ROWS, 1),
    numeric("scale", "mixed: a scale doubled", "mixed", projection(1, "q_proj", _SCALES, at((5, 0), _doubled)), 1),
    numeric("bits", "mixed: planes swapped", "mixed", _PLANES, 0),
    numeric("weight", "mixed: places in the LM head swapped", "mixed", _PLACES, None),
    structural("constant", "mixed: bits of a plane left out", "mixed", _constant_doubled("mask_")),
)
