"""Graphs that are not those of their models, in fp32, int8 and int4; nothing needs to run to tell.

CI plants each in one of the three, in turn.
"""

from __future__ import annotations

import onnx
from planted.editing import Artifact
from planted.fault import Change, Fault, quiet
from support.formats.graph_faults import STRUCTURE, Edit

_BASES = {"fp32": "whole", "int8": "window", "int4": "int4"}


def _in_the_file(edit: Edit) -> Change:
    def change(artifact: Artifact) -> None:
        path = artifact.onnx / "model.onnx"
        model = onnx.load(path, load_external_data=False)
        edit(model)
        path.write_bytes(model.SerializeToString())

    return change


FAULTS: tuple[Fault, ...] = tuple(
    quiet(f"{name}, {precision}", base, _in_the_file(edit), is_repeated=number % len(_BASES) != index)
    for index, (precision, base) in enumerate(_BASES.items())
    for number, (name, edit, _) in enumerate(STRUCTURE)
)
