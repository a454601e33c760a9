"""An artifact's ONNX file, open for surgery: weights as arrays, nodes by name, and edits that fit many of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from planted.editing import Artifact
from support.product import Projection

from converters.onnx.weights.weights import INLINE_BYTES
from seap_export.model.families.names import QKV

_DATA = "model.onnx.data"
#: Smaller tensors stand in the graph itself, as the converter has it; onnx counts the bytes of the Python object.
_EXTERNAL_BYTES = sys.getsizeof(bytes(INLINE_BYTES)) + 1


class Graph:
    """The file, with its data in memory; `save` puts it back in the form it came in."""

    def __init__(self, artifact: Artifact) -> None:
        self.spec = artifact.spec
        self._path = artifact.onnx / "model.onnx"
        self.proto = onnx.load(self._path)
        self._made = 0

    def save(self) -> None:
        (self._path.parent / _DATA).unlink()  # or the new data would be appended to it
        kept = {"save_as_external_data": True, "all_tensors_to_one_file": True, "size_threshold": _EXTERNAL_BYTES}
        onnx.save(self.proto, self._path, location=_DATA, **kept)

    def names(self, prefix: str = "", suffix: str = "") -> list[str]:
        """Of weights."""
        names = [tensor.name for tensor in self.proto.graph.initializer]
        return [name for name in names if name.startswith(prefix) and name.endswith(suffix)]

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A copy of a weight."""
        return numpy_helper.to_array(self._tensor(name)).copy()

    def __setitem__(self, name: str, values: NDArray[Any]) -> None:
        tensor = self._tensor(name)
        before = numpy_helper.to_array(tensor)
        assert (before.shape, before.dtype) == (values.shape, values.dtype), name
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """The name of a new constant."""
        self._made += 1
        name = f"planted_{self._made}"
        self.proto.graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(self, name: str) -> onnx.NodeProto:
        return next(node for node in self.proto.graph.node if node.name == name)

    def nodes(self, *op_types: str) -> list[onnx.NodeProto]:
        return [node for node in self.proto.graph.node if node.op_type in op_types]

    def set(self, node: onnx.NodeProto, **attributes: Any) -> None:
        """Sets attributes of a node, whether or not it has them."""
        kept = [attribute for attribute in node.attribute if attribute.name not in attributes]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in attributes.items())])

    def rename_inputs(self, names: dict[str, str]) -> None:
        """Every node that reads a value of `names` reads the one that it maps to."""
        for node in self.proto.graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]

    def before(self, node: onnx.NodeProto, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Puts an operator before a node; the name of what it gives, for the node to read."""
        self._made += 1
        output = f"planted_{self._made}"
        index = next(i for i, other in enumerate(self.proto.graph.node) if other.name == node.name)
        self._insert(index, op_type, inputs, output, attributes)
        return output

    def behind(self, value: str, *operators: tuple[str, Sequence[str], dict[str, Any]]) -> None:
        """Sends a node's output through operators before anyone reads it; "" in their inputs stands for it."""
        nodes = self.proto.graph.node
        behind = next(i for i, node in enumerate(nodes) if value in node.output) + 1
        current = f"{value}.original"
        nodes[behind - 1].output[:] = [current if name == value else name for name in nodes[behind - 1].output]
        for index, (op_type, inputs, attributes) in enumerate(operators):
            output = value if index == len(operators) - 1 else f"{value}.planted_{index}"
            self._insert(behind + index, op_type, [name or current for name in inputs], output, attributes)
            current = output

    def _insert(
        self, index: int, op_type: str, inputs: Sequence[str], output: str, attributes: dict[str, Any]
    ) -> None:
        node = helper.make_node(op_type, list(inputs), [output], name=f"node_of_{output}", **attributes)
        self.proto.graph.node.insert(index, node)

    def _tensor(self, name: str) -> onnx.TensorProto:
        return next(tensor for tensor in self.proto.graph.initializer if tensor.name == name)


Edit = Callable[[Graph], Any]


def edited(edit: Edit) -> Callable[[Artifact], None]:
    """What opens an artifact's ONNX file, edits and saves it."""

    def change(artifact: Artifact) -> None:
        graph = Graph(artifact)
        edit(graph)
        graph.save()

    return change


Array = NDArray[Any]
#: What becomes of an array.
Change = Callable[[Array], Array]
#: The name of a layer's attention.
ATTENTION = "layers.{}.self_attn.attention"


def constant(node: str, index: int, value: Any) -> Edit:
    """A node's input is a constant of its own, of the dtype of the one that it was."""

    def edit(graph: Graph) -> None:
        target = graph.node(node)
        target.input[index] = graph.constant(value, graph[target.input[index]].dtype)

    return edit


def attributes(*nodes: str, **values: Any) -> Edit:
    """Nodes have other attributes."""
    return lambda graph: [graph.set(graph.node(node), **values) for node in nodes]


def zeroed_input(node: str, index: int) -> Edit:
    """A node's input is zero."""

    def edit(graph: Graph) -> None:
        target = graph.node(node)
        target.input[index] = graph.before(target, "Sub", [target.input[index]] * 2)

    return edit


def at(where: Any, change: Change) -> Change:
    """A change of a part of an array."""

    def changed(values: Array) -> Array:
        values[where] = change(values[where])
        return values

    return changed


def weight(name: str, change: Change) -> Edit:
    """A weight has other numbers."""
    return lambda graph: graph.__setitem__(name, change(graph[name]))


def scaled(name: str, factor: float = 1.01) -> Edit:
    """A weight is multiplied."""
    return weight(name, lambda values: (values * np.float32(factor)).astype(values.dtype))


def projection(layer: int, name: Projection, part: str, change: Change, *, last: bool = False) -> Edit:
    """What the graph stores of a projection, of which `change` is given a part with its outputs first; in the file
    they may be the last axis."""

    def edit(graph: Graph) -> None:
        stem, own = _outputs(graph, layer, name)
        values = graph[f"{stem}.{part}"]
        outputs = values.T if last else values
        before = outputs[own].copy()
        outputs[own] = change(before.copy())
        assert not np.array_equal(outputs[own], before), "nothing is changed"
        graph[f"{stem}.{part}"] = values

    return edit


def _outputs(graph: Graph, layer: int, name: Projection) -> tuple[str, slice]:
    """The stem of a projection's name in the graph, and which of its outputs are the projection's own."""
    stem = f"model.layers.{layer}.{'mlp' if name in ('gate_proj', 'up_proj', 'down_proj') else 'self_attn'}"
    if name not in QKV or not graph.names(f"{stem}.qkv_proj.weight"):
        return f"{stem}.{name}", slice(None)
    sizes = [graph.spec.projection_shape(each, layer)[0] for each in QKV]
    start = sum(sizes[: QKV.index(name)])
    return f"{stem}.qkv_proj", slice(start, start + sizes[QKV.index(name)])
