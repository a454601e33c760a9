"""Graphs that are not those of their models, in fp32, int8 and int4; nothing needs to run to tell.

What else such a comparison finds is planted without an export, in tests/converters/onnx/test_structure.py.
"""

from __future__ import annotations

import onnx
from planted.editing import Artifact
from planted.fault import Change, Fault, quiet
from planted.kinds import Kind
from support.formats.graph_faults import STRUCTURE, Edit

#: What is at fault, and in which artifacts.
_CHOSEN: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "one token is never chosen": ("wiring", ("whole", "window", "int4", "half", "steps", "mixed")),
    "one token in a prompt changes all": ("wiring", ("rows",)),
    "a window that no prompt reaches": ("attribute", ("steps",)),
    "an epsilon that is a little off": ("attribute", ("rows", "mixed")),
    "a constant with another value": ("constant", ("int4", "steps", "half")),
    "an older opset": ("metadata", ("mixed",)),
    "a further output": ("wiring", ("points",)),
}


def _in_the_file(edit: Edit) -> Change:
    def change(artifact: Artifact) -> None:
        path = artifact.onnx / "model.onnx"
        model = onnx.load(path, load_external_data=False)
        edit(model)
        path.write_bytes(model.SerializeToString())

    return change


FAULTS: tuple[Fault, ...] = tuple(
    quiet(_CHOSEN[name][0], f"{name}, {base}", base, _in_the_file(edit))
    for name, edit, _ in STRUCTURE
    if name in _CHOSEN
    for base in _CHOSEN[name][1]
)
