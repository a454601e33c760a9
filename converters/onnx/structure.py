"""Compares a graph file with the graph that its model gives: everything but the numbers of the weights.

Nothing of a file is believed that a runtime reads. Both graphs are brought to one form, in which only texts for people
and defaults are left out, and must then be the same bytes; what differs is named node by node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from converters.onnx.weights.weights import INLINE_BYTES
from seap_export.errors import ArtifactError

#: Fields whose order means nothing, and the keys that their entries are sorted by.
_SORTED = {"attribute": "name", "metadata_props": "key", "opset_import": "domain"}
#: Parts of a graph that are compared one by one.
_GRAPH_PARTS = ("node", "input", "output", "initializer", "value_info")
#: The keys of a tensor's place. ONNX Runtime reads others, such as numbers that it has prepared for a kernel.
_PLACE = ("location", "offset", "length")
#: The most bytes between two tensors in a data file, which alignment explains.
_ALIGNMENT = 1 << 16


def graph_differences(expected: ir.Model, path: Path, files: Mapping[str, str]) -> Iterator[str]:
    """Finds where a graph file is not as expected, one line each; weights are not read.

    Args:
        path: The .onnx file; its data files lie beside it.
    """
    stored, constants = load_proto(path), _constants(expected)
    if stored.model_version != expected.model_version:
        yield f"{path}: another release of this package wrote it, whose graphs differ; export again"
        return
    wanted = ir.to_proto(_without_data(expected))
    lines = [*_model(_plain(wanted), _plain(stored)), *_initializers(wanted.graph, stored.graph, constants, files)]
    for line in lines or _data(stored.graph, path):
        yield f"{path}: {' '.join(line.split())}; export again"  # names may hold line breaks


def load_proto(path: Path) -> onnx.ModelProto:
    """Reads a graph file without its data."""
    try:
        model = onnx.load(path, load_external_data=False)
        if not all(isinstance(text, str) for text in _texts(model)):  # protobuf gives bytes for what it cannot decode
            raise ValueError("a text is not UTF-8")
        return model
    except Exception as error:  # errors of several packages: file system, protobuf
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path}: cannot be read as ONNX ({reason:.200}); export again") from error


def _texts(message: Any) -> Iterator[Any]:
    """Yields all strings in a protobuf message and in the messages inside it."""
    for field, value in message.ListFields():
        parts = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
        if field.type == field.TYPE_STRING:
            yield from parts
        elif field.type == field.TYPE_MESSAGE:
            for part in parts:
                yield from _texts(part)


def large_tensors(model: ir.Model) -> list[str]:
    """The names of the tensors that are not in the graph itself, in its order."""
    tensors = ((name, value.const_value) for name, value in model.graph.initializers.items())
    return [name for name, tensor in tensors if tensor is not None and tensor.nbytes > INLINE_BYTES]


def _constants(model: ir.Model) -> frozenset[str]:
    """The tensors that belong to the graph and are none of the model's."""
    return frozenset(name for name, value in model.graph.initializers.items() if type(value.const_value) is ir.Tensor)


def _without_data(model: ir.Model) -> ir.Model:
    for name in large_tensors(model):
        value = model.graph.initializers[name]
        tensor = value.const_value
        assert tensor is not None
        shape = ir.Shape(tensor.shape.numpy())
        value.const_value = ir.ExternalTensor("", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)
    return model


def _plain(message: Any) -> Any:
    """The message without parts that have no effect: texts for people, defaults, and the order of attributes."""
    for field, value in message.ListFields():
        if field.name == "doc_string":
            message.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE:
            for part in [value] if hasattr(value, "ListFields") else value:
                _plain(part)
        elif (
            isinstance(value, int | float | str | bytes)
            and value == field.default_value
            and not field.containing_oneof
        ):
            message.ClearField(field.name)
    for name, key in _SORTED.items():
        parts = list(getattr(message, name, ()))
        if parts and not isinstance(parts[0], str):  # those of functions are names
            message.ClearField(name)
            getattr(message, name).extend(sorted(parts, key=lambda part: str(getattr(part, key))))
    return message


def _bytes(message: Any) -> bytes:
    content: bytes = message.SerializeToString(deterministic=True)
    return content


def _model(wanted: Any, stored: Any) -> Iterator[str]:
    """Yields the differences between two models that `_plain` has returned."""
    graphs = wanted.graph, stored.graph
    for kind in ("input", "output"):
        yield from _interface(kind, *(getattr(graph, kind) for graph in graphs))
    yield from _nodes(graphs[0].node, graphs[1].node)
    known = {_bytes(_info(tensor)) for tensor in graphs[1].initializer}
    for info in graphs[1].value_info:
        if _bytes(info) not in known:
            yield f"the type of the value '{info.name:.80}' is stated, and is not stated of the model's graph"
    yield from (f"the graph's {part}" for part in _other_fields(*graphs, left_out=_GRAPH_PARTS))
    yield from _other_fields(wanted, stored, left_out=("graph", "producer_name"))


def _other_fields(wanted: Any, stored: Any, left_out: Sequence[str]) -> Iterator[str]:
    """Names the fields in which two messages differ, those included that this release of onnx does not know."""
    ours, theirs = type(wanted)(), type(stored)()
    for copy, message in ((ours, wanted), (theirs, stored)):
        copy.CopyFrom(message)
    names = [field.name for field in wanted.DESCRIPTOR.fields]
    different = [name for name in names if name not in left_out and getattr(ours, name) != getattr(theirs, name)]
    yield from (f"{name} differs from that of the model's graph" for name in different)
    for copy in (ours, theirs):
        for name in (*left_out, *different):
            copy.ClearField(name)
    if _bytes(ours) != _bytes(theirs):
        yield "unknown fields differ from those of the model's graph"


def _info(tensor: onnx.TensorProto) -> onnx.ValueInfoProto:
    info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
    plain: onnx.ValueInfoProto = _plain(info)
    return plain


def _interface(kind: str, wanted: Sequence[Any], stored: Sequence[Any]) -> Iterator[str]:
    ours, theirs = ({value.name: _described(value) for value in values} for values in (wanted, stored))
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            is_now, should_be = theirs.get(name, "missing"), ours.get(name, "unknown")
            yield f"{kind} '{name:.60}' is {is_now}, and {should_be} according to config.json"
    if ours == theirs and [*map(_bytes, wanted)] != [*map(_bytes, stored)]:
        yield f"{kind}s are in another order, or more is said of them, than in the model's graph"


def _described(value: onnx.ValueInfoProto) -> str:
    """The dtype and shape of an input or output, such as "INT64[batch_size,?]"."""
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return "no tensor"
    try:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
    except ValueError:
        kind = str(tensor.elem_type)
    dims = [dim.dim_param or (str(dim.dim_value) if dim.HasField("dim_value") else "?") for dim in tensor.shape.dim]
    return f"{kind}[{','.join(dims)}]" if tensor.HasField("shape") else kind


def _nodes(wanted: Sequence[Any], stored: Sequence[Any], place: str = "") -> Iterator[str]:
    """The nodes that differ, by their names; `place` says in which node's body they are."""
    ours, theirs = ({node.name: node for node in nodes} for nodes in (wanted, stored))
    for name, node in ours.items():
        if name not in theirs:
            yield f"node '{name:.80}' ({node.op_type}) is missing{place}"
        elif _bytes(node) != _bytes(theirs[name]):
            yield from _node(node, theirs[name], place)
    for name, node in theirs.items():
        if name not in ours:
            yield f"node '{name or node.output[:1]!s:.80}' ({node.op_type:.40}) is not in the model's graph{place}"
    order = [node.name for node in stored]
    if ours.keys() == theirs.keys() and list(ours) != order:
        first = next((b for a, b in zip(ours, order, strict=False) if a != b), order[-1])
        yield f"node '{first}' is in another place, or is there twice{place}"


def _node(wanted: Any, stored: Any, place: str) -> Iterator[str]:
    name = f"node '{wanted.name:.80}'"
    if (wanted.op_type, wanted.domain) != (stored.op_type, stored.domain):
        ours, theirs = (
            node.op_type if not node.domain else f"{node.domain}:{node.op_type}" for node in (wanted, stored)
        )
        yield f"{name} is {theirs:.80} and not {ours}{place}"
        return
    for key, verb in (("input", "reads"), ("output", "gives")):
        ours, theirs = getattr(wanted, key), getattr(stored, key)
        for index in range(max(len(ours), len(theirs))):
            a, b = ((values[index] if index < len(values) else "") or "nothing" for values in (ours, theirs))
            if a != b:
                yield f"{name} {verb} '{b:.80}' and not '{a:.80}'{place}"
    ours, theirs = ({part.name: part for part in node.attribute} for node in (wanted, stored))
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if a is not None and b is not None and _bytes(a) == _bytes(b):
            continue
        inner = list(_body(a, b, f" in the {key} of {name}"))
        yield from inner or [f"{name} has a different {key:.40} than the model{place}"]
    yield from (f"{name}: {part}{place}" for part in _other_fields(wanted, stored, ("input", "output", "attribute")))


def _body(wanted: Any, stored: Any, place: str) -> Iterator[str]:
    """Compares the nodes of two attributes if both are graphs."""
    if wanted is not None and stored is not None and wanted.HasField("g") and stored.HasField("g"):
        yield from _nodes(wanted.g.node, stored.g.node, place)


def _initializers(
    wanted: onnx.GraphProto, stored: onnx.GraphProto, constants: Collection[str], files: Mapping[str, str]
) -> Iterator[str]:
    """Tensors that are missing, not known, of another shape or stored in another way; constants with another value."""
    counts = Counter(tensor.name for tensor in stored.initializer)
    theirs = {tensor.name: tensor for tensor in stored.initializer}
    for ours in wanted.initializer:
        name, other = ours.name, theirs.pop(ours.name, None)
        if other is None:
            yield f"'{name}' is not stored"
        elif counts[name] > 1:
            yield f"'{name}' is stored {counts[name]} times"
        elif _head(ours) != _head(other):
            yield f"'{name}' is stored with another shape or type"
        elif name in files:
            yield from _wrong_place(ours, other, files[name])
        elif not _is_inline(other) or len(other.raw_data) != len(ours.raw_data):
            yield f"'{name}' is not stored in the graph itself"
        elif name in constants and other.raw_data != ours.raw_data:
            yield f"the constant '{name}' has another value than in the model's graph"
    yield from (f"the tensor '{name:.80}' is not in the model's graph" for name in theirs)


def _head(tensor: onnx.TensorProto) -> bytes:
    """A tensor's description, serialised without its numbers and where they are stored."""
    head = onnx.TensorProto()
    head.CopyFrom(tensor)
    for name in ("raw_data", "external_data", "data_location"):
        head.ClearField(name)
    return _bytes(_plain(head))


def _is_inline(tensor: onnx.TensorProto) -> bool:
    return not tensor.external_data and tensor.data_location == onnx.TensorProto.DEFAULT


def _wrong_place(wanted: onnx.TensorProto, stored: onnx.TensorProto, file: str) -> Iterator[str]:
    if stored.raw_data or stored.data_location != onnx.TensorProto.EXTERNAL:
        yield f"'{stored.name}' is stored in the graph itself"
        return
    keys = [entry.key for entry in stored.external_data]
    place = {entry.key: entry.value for entry in stored.external_data}
    length = next(entry.value for entry in wanted.external_data if entry.key == "length")
    if place.get("location") != file:
        yield f"'{stored.name}' is in the file '{place.get('location', ''):.80}' and not in {file}"
    elif len(set(keys)) < len(keys) or set(keys) - set(_PLACE) or not _is_offset(place.get("offset", "0")):
        yield f"more is said of the place of '{stored.name}' than its file, offset and length"
    elif place.get("length") != length:
        yield f"'{stored.name}' has {place.get('length', 'no')[:20]} bytes and not {length}"


def _is_offset(text: str) -> bool:
    return text.isdecimal() and len(text) < 20


def _data(graph: onnx.GraphProto, path: Path) -> Iterator[str]:
    """Data files that are missing, too short or too long, tensors that share bytes, and bytes that no tensor has."""
    by_file: dict[str, list[tuple[int, int, str]]] = {}
    for tensor in graph.initializer:
        if place := {entry.key: entry.value for entry in tensor.external_data}:
            start = int(place.get("offset", "0"))
            by_file.setdefault(place["location"], []).append((start, start + int(place["length"]), tensor.name))
    for name, ranges in by_file.items():
        file, ranges = path.with_name(name), [(0, 0, ""), *sorted(ranges)]
        if not file.is_file():
            yield f"its data file {name} is missing"
        elif (size := file.stat().st_size) != (needed := max(end for _, end, _ in ranges)):
            yield f"its data file {name} has {size} bytes and not {needed}"
        else:
            yield from _between(file, ranges)


def _between(file: Path, ranges: Sequence[tuple[int, int, str]]) -> Iterator[str]:
    with file.open("rb") as data:
        for (_, end, before), (start, _, name) in pairwise(ranges):
            if start < end:
                yield f"'{name}' shares bytes of {file.name} with '{before}'"
            elif start - end >= _ALIGNMENT:
                yield f"{start - end} bytes of {file.name} before '{name}' are of no tensor"
            elif start > end:
                data.seek(end)
                if any(data.read(start - end)):
                    yield f"{file.name} holds something before '{name}' that is of no tensor"
