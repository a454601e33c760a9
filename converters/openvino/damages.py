"""Finds what shows without running a model: a graph or files that do not belong to the model folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from converters.openvino.ir_file import Ir, read_ir, write_ir
from converters.openvino.packages import require
from converters.openvino.stored_tensor import Storage
from converters.openvino.tensors import standard_graph
from converters.openvino.tokenizer import DETOKENIZER_FILE, TOKENIZER_FILE, openvino_files, write_tokenizer
from converters.openvino.translate import translate
from converters.small_files import file_differences

_VERSION = "openvino_version"


def graph_differences(model_folder: Path, folder: Path, storage: Storage) -> Iterator[str]:
    """The nodes that differ from those of the graph that is written now; see `Format.differences`.

    Another release of OpenVINO may write another graph that is as good. Then nothing is compared; parity tells.
    """
    stored = read_ir(folder)
    if _noted(stored.net, _VERSION) != require("openvino").get_version():
        return
    graph = standard_graph(model_folder, storage)
    with tempfile.TemporaryDirectory() as made:
        # without the weights, which stay inputs
        write_ir(translate(graph), (), Path(made), lambda _: None)
        expected = read_ir(Path(made))
        weights = {tensor.name for weight in graph.weights for tensor in weight.tensors}
        yield from _other_nodes(expected, stored, weights)


def _other_nodes(expected: Ir, stored: Ir, weights: set[str]) -> Iterator[str]:
    wanted, given = (
        {layer.attrib["id"]: layer for layer in ir.net.iterfind("layers/layer")} for ir in (expected, stored)
    )
    for index in sorted(wanted.keys() | given.keys(), key=int):
        node, other = wanted.get(index), given.get(index)
        if node is None or other is None:
            present = other if node is None else node
            what = "missing" if other is None else "not of the model"
            yield f"node '{index if present is None else present.attrib['name']}' is {what}"
        elif node.attrib["name"] != other.attrib["name"]:
            yield f"node '{other.attrib['name']:.60}' is in the place of '{node.attrib['name']}'"
        elif node.attrib["name"] not in weights and not _is_same_node(node, other, expected, stored):
            yield f"node '{node.attrib['name']}' ({node.attrib['type']}) differs from the model's"
    edges = [
        [tuple(sorted(edge.attrib.items())) for edge in ir.net.iterfind("edges/edge")] for ir in (expected, stored)
    ]
    if sorted(edges[0]) != sorted(edges[1]):
        yield "nodes are connected differently"


def _is_same_node(node: ElementTree.Element, other: ElementTree.Element, expected: Ir, stored: Ir) -> bool:
    if node.attrib["type"] != other.attrib["type"] or _data(node) != _data(other):
        return False
    name = node.attrib["name"]
    return node.attrib["type"] != "Const" or expected.read(name).tobytes() == stored.read(name).tobytes()


def _data(layer: ElementTree.Element) -> dict[str, str]:
    data = layer.find("data")
    return {} if data is None else {key: value for key, value in data.attrib.items() if key != "offset"}


def _noted(net: ElementTree.Element, name: str) -> str | None:
    note = net.find(f"rt_info/{name}")
    return None if note is None else note.attrib.get("value")


def file_damages(model_folder: Path, folder: Path) -> Iterator[str]:
    """The files beside the IR that are missing or not those of the model folder; see `Format.damages`."""
    yield from file_differences(folder, openvino_files(model_folder))
    with tempfile.TemporaryDirectory() as made:
        write_tokenizer(model_folder, Path(made))
        for name in (TOKENIZER_FILE, DETOKENIZER_FILE):
            for graph in (Path(made) / name, (Path(made) / name).with_suffix(".bin")):
                stored = folder / graph.name
                if not stored.is_file():
                    yield f"{stored}: missing; export again"
                elif not (_is_same_graph(graph, stored) if graph.suffix == ".xml" else _is_same_data(graph, stored)):
                    yield f"{stored}: is not that of the model's tokenizer; export again"


def _is_same_data(expected: Path, stored: Path) -> bool:
    return expected.read_bytes() == stored.read_bytes()


def _is_same_graph(expected: Path, stored: Path) -> bool:
    """Another release of openvino-tokenizers may write another graph that is as good."""
    try:
        nets = [ElementTree.parse(path).getroot() for path in (expected, stored)]
    except ElementTree.ParseError:
        return False
    versions = {_noted(net, "openvino_tokenizers_version") for net in nets}
    if len(versions) > 1:
        return True
    for net in nets:
        for notes in net.findall("rt_info"):
            net.remove(notes)
    return ElementTree.tostring(nets[0]) == ElementTree.tostring(nets[1])
