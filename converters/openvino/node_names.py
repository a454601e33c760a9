"""Names the nodes and tensors of an OpenVINO model alike in every process, and only those whose names are of use."""

from __future__ import annotations

import re
from typing import Any

#: Names that OpenVINO makes up count all nodes that the process ever made.
_MADE_UP = re.compile(r"(.*?)_\d+(\.\d+)?")


def settle_names(model: Any, *, every: bool = False) -> None:
    """Gives nodes of an `openvino.Model` whose names were made up others that only depend on their places.

    Of tensors, inputs and outputs of the model alone keep their names: where a plugin joins an inner one with an
    output, that would get both.
    """
    nodes = model.get_ordered_ops()
    for node in nodes:
        if node.get_type_name() == "TensorIterator":
            settle_names(node.get_function(), every=every)
    for index, node in enumerate(nodes):
        kind = node.get_type_name()
        if _is_made_up(node.get_friendly_name(), kind, every):
            node.set_friendly_name(f"{kind}/{index}")
    for node in nodes:
        kind = node.get_type_name()
        for output in node.outputs():
            names = {name for name in output.get_names() if not _is_made_up(name, kind, every)}
            if kind == "Parameter":
                output.set_names(names or {node.get_friendly_name()})
            else:
                output.set_names(names if kind == "Result" or _is_result(output) else set())


def _is_result(output: Any) -> bool:
    return any(target.get_node().get_type_name() == "Result" for target in output.get_target_inputs())


def _is_made_up(name: str, kind: str, every: bool) -> bool:
    match = _MADE_UP.fullmatch(name)
    return match is not None and (every or match[1] == kind)
