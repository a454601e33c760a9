"""Graphs that are not those of their models, in fp32, int8 and int4; nothing needs to run to tell.

What else such a comparison finds is planted without an export, in tests/converters/onnx/test_structure.py.
"""

from __future__ import annotations

import onnx
from planted.editing import Artifact
from planted.fault import Change, Fault, quiet
from support.formats.graph_faults import STRUCTURE, Edit

#: In which artifacts.
_CHOSEN = {
    "one token is never chosen": ("whole", "window", "int4", "half"),
    "one token in a prompt changes all": ("whole", "rows"),
    "a window that no prompt reaches": ("tied", "steps"),
    "an epsilon that is a little off": ("routed", "mixed"),
    "data outside the folder": ("routed",),
    "a further output": ("points",),
    "an older opset": ("mixed",),
}


def _in_the_file(edit: Edit) -> Change:
    def change(artifact: Artifact) -> None:
        path = artifact.onnx / "model.onnx"
        model = onnx.load(path, load_external_data=False)
        edit(model)
        path.write_bytes(model.SerializeToString())

    return change


FAULTS: tuple[Fault, ...] = tuple(
    quiet(f"{name}, {base}", base, _in_the_file(edit)) for name, edit, _ in STRUCTURE for base in _CHOSEN.get(name, ())
)
