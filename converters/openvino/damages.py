"""Finds, without running a model, a graph or files that do not belong to the model folder.

Graphs are compared whole with those that are written now: nodes, attributes, ports, connections, constants, and the
notes on which plugins and OpenVINO GenAI act.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from converters.openvino.ir_file import DATA_FILE, MODEL_FILE, read_ir, write_graph
from converters.openvino.stored_tensor import Storage
from converters.openvino.tensors import standard_graph
from converters.openvino.tokenizer import DETOKENIZER_FILE, TOKENIZER_FILE, openvino_files, write_tokenizer
from converters.openvino.translate import translate
from converters.small_files import file_differences, foreign_files

#: Notes that only say what wrote a graph.
_ORIGINS = re.compile(r"\w+_version|original_tokenizer_class")
_GRAPHS = (TOKENIZER_FILE, DETOKENIZER_FILE)
#: What an element of a graph says: its tag, attributes and text, and what is in it.
Said = tuple[str, Mapping[str, str], str, tuple["Said", ...]]


def graph_differences(model_folder: Path, folder: Path, storage: Storage) -> Iterator[str]:
    """How the graph differs from the one that is written now; the numbers of the weights do not count.

    See `Format.differences`. Another release of OpenVINO may write another graph that is as good; the lines then say
    that it is another release.
    """
    stored, graph = read_ir(folder), standard_graph(model_folder, storage)
    tensors = [tensor for weight in graph.weights for tensor in weight.tensors]
    with tempfile.TemporaryDirectory() as made:
        write_graph(translate(graph), tensors, Path(made))
        expected = read_ir(Path(made), is_whole=False)
        weights = {tensor.name for tensor in tensors}
        for line in _other_graph(expected.net, stored.net):
            yield f"{line}{_other_release(expected.net, stored.net)}"
        for name in expected.constants.keys() & stored.constants.keys() - weights:
            if expected.read(name).tobytes() != stored.read(name).tobytes():
                yield f"constant '{name}' differs from the model's"


def file_damages(model_folder: Path, folder: Path) -> Iterator[str]:
    """The files beside the IR that are missing or not those of the model folder; see `Format.damages`."""
    files = openvino_files(model_folder)
    yield from file_differences(folder, files)
    graphs = [graph for name in _GRAPHS for graph in (name, str(Path(name).with_suffix(".bin")))]
    yield from foreign_files(folder, [*files, *graphs, MODEL_FILE, DATA_FILE])
    with tempfile.TemporaryDirectory() as made:
        write_tokenizer(model_folder, Path(made))
        for name in _GRAPHS:
            reason = _other_tokenizer(Path(made) / name, folder / name)
            if reason is not None:
                yield f"{folder / name}: {reason}; export again"


def _other_tokenizer(expected: Path, stored: Path) -> str | None:
    """How the graph of a tokenizer differs from the one that is written now, with its numbers; None: it does not."""
    if not stored.is_file() or not stored.with_suffix(".bin").is_file():
        return "missing, or its data are"
    try:
        nets = ElementTree.parse(expected).getroot(), ElementTree.parse(stored).getroot()
    except ElementTree.ParseError:
        return "not a graph of OpenVINO"
    line = next(_other_graph(*nets, with_places=True), None)
    if line is None and expected.with_suffix(".bin").read_bytes() != stored.with_suffix(".bin").read_bytes():
        line = "its data differ"
    return None if line is None else f"is not that of the model's tokenizer: {line}{_other_release(*nets)}"


def _other_graph(
    wanted: ElementTree.Element, given: ElementTree.Element, *, with_places: bool = False
) -> Iterator[str]:
    """Finds the differences between two graphs, a line each."""
    layers = [list(net.iterfind("layers/layer")) for net in (wanted, given)]
    nodes, others = ({layer.attrib.get("name", ""): layer for layer in of_net} for of_net in layers)
    for name in [*nodes, *(name for name in others if name not in nodes)]:
        if name not in others:
            yield f"node '{name}' is missing"
        elif name not in nodes:
            yield f"node '{name:.60}' ({others[name].attrib.get('type', '')!s:.40}) is not of the model"
        elif _said(nodes[name], with_places) != _said(others[name], with_places):
            yield f"node '{name}' ({nodes[name].attrib['type']}) differs from the model's"
    if len(layers[1]) != len(others):
        yield "several nodes have one name"
    if nodes.keys() == others.keys() and list(nodes) != list(others):
        yield "nodes are in another order"
    edges, other_edges = (_edges(net) for net in (wanted, given))
    if edges != other_edges:
        target = min((target for _, (target, _) in {*edges} ^ {*other_edges}), default="several times")
        yield f"nodes are connected differently, for example '{target:.60}'"
    notes, other_notes = (
        {note.tag: _said(note, True) for note in net.iterfind("rt_info/*")} for net in (wanted, given)
    )
    for tag in sorted(notes.keys() | other_notes.keys()):
        if notes.get(tag) != other_notes.get(tag) and not _ORIGINS.fullmatch(tag):
            yield f"its note '{tag:.60}' differs"
    if {"layers", "edges", "rt_info"} != {part.tag for part in given} or len(given) != len(wanted):
        yield "it has other parts than nodes, connections and notes"


def _said(element: ElementTree.Element, with_places: bool) -> Said:
    """All that an element says, but for the number of a node and, unless `with_places`, the offset of its numbers."""
    left_out = ("id",) if element.tag == "layer" else ("offset",) if element.tag == "data" and not with_places else ()
    attributes = {key: value for key, value in element.attrib.items() if key not in left_out}
    return element.tag, attributes, (element.text or "").strip(), tuple(_said(part, with_places) for part in element)


def _edges(net: ElementTree.Element) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """The connections in order, each as the names and ports of the nodes from which and to which it leads."""
    names = {layer.attrib.get("id"): layer.attrib.get("name", "") for layer in net.iterfind("layers/layer")}

    def end(edge: ElementTree.Element, which: str) -> tuple[str, str]:
        return names.get(edge.attrib.get(f"{which}-layer"), ""), edge.attrib.get(f"{which}-port", "")

    return sorted((end(edge, "from"), end(edge, "to")) for edge in net.iterfind("edges/edge"))


def _other_release(wanted: ElementTree.Element, given: ElementTree.Element) -> str:
    """Says if a graph was written by other releases of its packages than are installed; "": it was not."""
    notes = [
        {note.tag: note.attrib.get("value", "") for note in net.iterfind("rt_info/*") if note.tag.endswith("_version")}
        for net in (wanted, given)
    ]
    tag = next((tag for tag, version in notes[0].items() if notes[1].get(tag) != version), None)
    if tag is None:
        return ""
    package, (here, there) = tag.removesuffix("_version"), (of.get(tag, "none").partition("-")[0] for of in notes)
    return f" (it is of {package} {there:.20}, and this is {here}: install that one, or export again)"
