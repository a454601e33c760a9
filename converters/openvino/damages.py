"""Finds what shows without running a model: a graph or files that do not belong to the model folder."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from converters.openvino.ir_file import Ir, read_ir, write_ir
from converters.openvino.packages import require
from converters.openvino.stored_tensor import Storage
from converters.openvino.tensors import standard_graph
from converters.openvino.tokenizer import DETOKENIZER_FILE, TOKENIZER_FILE, write_tokenizer
from converters.openvino.translate import translate

__all__ = ["file_damages", "graph_differences"]

_VERSION = "openvino_version"


def graph_differences(model_folder: Path, folder: Path, storage: Storage) -> Iterator[str]:
    """The nodes that differ from those of the graph that is written now, one line each.

    Another release of OpenVINO may write another graph that is as good. Then nothing is compared; parity tells.

    Raises:
        ArtifactError: The IR cannot be read.
        InputError: The model folder is damaged.
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
    wanted, found = (
        {layer.attrib["id"]: layer for layer in ir.net.iterfind("layers/layer")} for ir in (expected, stored)
    )
    for place in sorted(wanted.keys() | found.keys(), key=int):
        own, other = wanted.get(place), found.get(place)
        if own is None or other is None:
            present = own if other is None else other
            yield f"node '{present.attrib['name'] if present is not None else place}' is {_surplus(other)}"
        elif own.attrib["name"] != other.attrib["name"]:
            yield f"node '{other.attrib['name']:.60}' is in the place of '{own.attrib['name']}'"
        elif own.attrib["name"] not in weights and not _is_same(own, other, expected, stored):
            yield f"node '{own.attrib['name']}' ({own.attrib['type']}) differs from the model's"
    edges = [
        [tuple(sorted(edge.attrib.items())) for edge in ir.net.iterfind("edges/edge")] for ir in (expected, stored)
    ]
    if sorted(edges[0]) != sorted(edges[1]):
        yield "nodes are connected differently"


def _surplus(other: ElementTree.Element | None) -> str:
    return "missing" if other is None else "not of the model"


def _is_same(own: ElementTree.Element, other: ElementTree.Element, expected: Ir, stored: Ir) -> bool:
    if own.attrib["type"] != other.attrib["type"] or _data(own) != _data(other):
        return False
    name = own.attrib["name"]
    return own.attrib["type"] != "Const" or expected.read(name).tobytes() == stored.read(name).tobytes()


def _data(layer: ElementTree.Element) -> dict[str, str]:
    data = layer.find("data")
    return {} if data is None else {key: value for key, value in data.attrib.items() if key != "offset"}


def _noted(net: ElementTree.Element, name: str) -> str | None:
    note = net.find(f"rt_info/{name}")
    return None if note is None else note.attrib.get("value")


def file_damages(model_folder: Path, folder: Path) -> Iterator[str]:
    """The files beside the IR that are missing or not those of the model folder, one line each.

    Raises:
        InputError: The model folder's tokenizer is damaged.
        EnvironmentFailure: openvino-tokenizers is missing.
    """
    with tempfile.TemporaryDirectory() as made:
        write_tokenizer(model_folder, Path(made))
        for file in sorted(Path(made).iterdir()):
            if not (folder / file.name).is_file():
                yield f"{file.name} is missing"
            elif not _is_same_file(file, folder / file.name):
                yield f"{file.name} is not the model's"


def _is_same_file(own: Path, other: Path) -> bool:
    if own.suffix == ".json":
        return _json(own) == _json(other)
    if own.name in (TOKENIZER_FILE, DETOKENIZER_FILE):
        return _is_same_tokenizer(own, other)
    return own.read_bytes() == other.read_bytes()


def _is_same_tokenizer(own: Path, other: Path) -> bool:
    """Another release of openvino-tokenizers may write another graph that is as good."""
    try:
        nets = [ElementTree.parse(path).getroot() for path in (own, other)]
    except ElementTree.ParseError:
        return False
    versions = {_noted(net, "openvino_tokenizers_version") for net in nets}
    if len(versions) > 1:
        return True
    for net in nets:
        for notes in net.findall("rt_info"):
            net.remove(notes)
    return ElementTree.tostring(nets[0]) == ElementTree.tostring(nets[1])


def _json(path: Path) -> Mapping[str, Any] | None:
    try:
        values: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
    except ValueError:
        return None
    return values
