"""IRs of OpenVINO: nodes, connections, constants and notes, the same of the tokenizer's graphs, and the configs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from planted.formats.files import added, file_plant, missing
from planted.formats.planting import DAMAGE, PARITY, Base, FormatFault, Parts, Plant, Subject
from support.editing import set_json
from support.formats.written import WrittenModel
from support.product import OPENVINO_MODEL as MODEL_FILE

from converters.openvino.ir_file import DATA_FILE, read_ir
from converters.openvino.stored_tensor import storage_of
from seap_export.model.families import names

_TOKENIZER, _DETOKENIZER = "openvino_tokenizer.xml", "openvino_detokenizer.xml"
_DTYPES = {"f32": "<f4", "f16": "<f2", "i8": "u1", "i4": "u1"}


def _holds(base: Base, name: str) -> frozenset[str]:
    shape = base.spec.tensors()[name]
    is_rounded = len(shape) == 2 and storage_of(base.precision).rounding_of(name, shape[1]) is not None
    return frozenset({"levels" if is_rounded else "float"})


def _open(made: WrittenModel, name: str) -> Parts:
    """The rows of a projection in the constant that holds queries, keys and values."""
    ir, shapes, joined, rows = read_ir(made.folder), made.spec.tensors(), name, slice(None)
    layer = names.layer_of(name)
    qkv = [name.replace(f"{part}_proj", "qkv_proj") for part in "qkv" if f".{part}_proj." in name]
    if layer is not None and qkv:
        (joined,) = qkv
        counts = [shapes[joined.replace("qkv_proj", f"{part}_proj")][0] for part in "qkv"]
        index = next(index for index, part in enumerate("qkv") if f".{part}_proj." in name)
        rows = slice(sum(counts[:index]), sum(counts[: index + 1]))
    parts = {}
    for part, stored in (("numbers", joined), ("scales", f"{joined}.scale")):
        constant = ir.constants.get(stored)
        if constant is not None:
            dtype = np.dtype(_DTYPES[constant.element_type])
            count = constant.shape[0]
            shape = (count,) if len(constant.shape) == 1 else (count, constant.size // count // dtype.itemsize)
            parts[part] = np.memmap(ir.data_file, dtype, "r+", constant.offset, shape)[rows]
    return parts


class Net:
    """A graph that is open for surgery."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = ElementTree.parse(path).getroot()

    @property
    def layers(self) -> list[ElementTree.Element]:
        return list(self.root.iterfind("layers/layer"))

    def first(self, kind: str, index: int = 0) -> ElementTree.Element:
        return [layer for layer in self.layers if layer.attrib["type"] == kind][index]

    def named(self, name: str) -> ElementTree.Element:
        return next(layer for layer in self.layers if layer.attrib["name"] == name)

    def into(self, layer: ElementTree.Element) -> list[ElementTree.Element]:
        """The connections that lead to a node, by its ports."""
        edges = (edge for edge in self.root.iterfind("edges/edge") if edge.attrib["to-layer"] == layer.attrib["id"])
        return sorted(edges, key=lambda edge: int(edge.attrib["to-port"]))

    def note(self, tag: str, value: str) -> None:
        notes = self.root.find("rt_info")
        assert notes is not None
        found = notes.find(tag)
        (found if found is not None else ElementTree.SubElement(notes, tag)).attrib["value"] = value


def net(change: Callable[[Net], object], file: str = MODEL_FILE) -> Plant:
    """Changes a graph."""

    def plant(made: WrittenModel) -> None:
        opened = Net(made.folder / file)
        change(opened)
        ElementTree.ElementTree(opened.root).write(opened.path, encoding="utf-8", xml_declaration=True)

    return plant


def _data(kind: str, index: int = 0, **values: str) -> Plant:
    """Changes the attributes of a node."""

    def change(opened: Net) -> None:
        data = opened.first(kind, index).find("data")
        assert data is not None
        data.attrib.update(values)

    return net(change)


def _rewired(kind: str, index: int, port: int, to: Callable[[Net], tuple[str, str]]) -> Plant:
    """A node reads something else at a port."""

    def change(opened: Net) -> None:
        edge = opened.into(opened.first(kind, index))[port]
        edge.attrib["from-layer"], edge.attrib["from-port"] = to(opened)

    return net(change)


def _source(kind: str, index: int, port: int) -> Callable[[Net], tuple[str, str]]:
    """What a node reads at a port."""

    def source(opened: Net) -> tuple[str, str]:
        edge = opened.into(opened.first(kind, index))[port]
        return edge.attrib["from-layer"], edge.attrib["from-port"]

    return source


def _number(value: float, other: float) -> Plant:
    """Changes the first constant that is this number, such as an epsilon."""

    def plant(made: WrittenModel) -> None:
        ir = read_ir(made.folder)
        for constant in ir.constants.values():
            if constant.size == 4 and constant.element_type == "f32":
                stored = np.memmap(ir.data_file, np.float32, "r+", constant.offset, (1,))
                if stored[0] == np.float32(value):
                    stored[0] = other
                    return
        raise AssertionError(f"no constant is {value}")

    return plant


def _table(name: str, change: Callable[[np.ndarray], object]) -> Plant:
    def plant(made: WrittenModel) -> None:
        ir = read_ir(made.folder)
        constant = ir.constants[name]
        change(np.memmap(ir.data_file, np.float32, "r+", constant.offset, constant.shape))

    return plant


def _lowered_token(opened: Net) -> None:
    """Adds a constant to the logits that makes one token impossible."""
    result = next(layer for layer in opened.layers if layer.attrib["type"] == "Result")
    (edge,) = opened.into(result)
    source = next(layer for layer in opened.layers if layer.attrib["id"] == edge.attrib["from-layer"])
    data = opened.path.with_name(DATA_FILE)
    lowered = np.zeros(130, np.float32)
    lowered[40] = -1e4
    offset = data.stat().st_size
    data.write_bytes(data.read_bytes() + lowered.tobytes())
    numbers = [str(max(int(layer.attrib["id"]) for layer in opened.layers) + more) for more in (1, 2)]
    layers = opened.root.find("layers")
    assert layers is not None
    constant = ElementTree.SubElement(layers, "layer", id=numbers[0], name="lowered", type="Const", version="opset1")
    ElementTree.SubElement(constant, "data", element_type="f32", shape="130", offset=str(offset), size="520")
    _port(ElementTree.SubElement(constant, "output"), "0", ["130"])
    add = ElementTree.SubElement(layers, "layer", id=numbers[1], name="lowering", type="Add", version="opset1")
    ElementTree.SubElement(add, "data", auto_broadcast="numpy")
    dims = [dim.text or "" for dim in source.iterfind("output/port/dim")]
    inputs = ElementTree.SubElement(add, "input")
    _port(inputs, "0", dims)
    _port(inputs, "1", ["130"])
    _port(ElementTree.SubElement(add, "output"), "2", dims)
    edges = opened.root.find("edges")
    assert edges is not None
    for start, port in ((edge.attrib["from-layer"], "0"), (numbers[0], "1")):
        from_port = edge.attrib["from-port"] if port == "0" else "0"
        ends = {"from-layer": start, "from-port": from_port, "to-layer": numbers[1], "to-port": port}
        ElementTree.SubElement(edges, "edge", ends)
    edge.attrib.update({"from-layer": numbers[1], "from-port": "2"})


def _port(parent: ElementTree.Element, number: str, dims: list[str]) -> None:
    port = ElementTree.SubElement(parent, "port", id=number, precision="FP32")
    for dim in dims:
        ElementTree.SubElement(port, "dim").text = dim


def _lowered_by_another_release(opened: Net) -> None:
    """The same, as if another release of OpenVINO had written it."""
    _lowered_token(opened)
    opened.note("openvino_version", "2026.0.0-1-other")


def _two_names(opened: Net) -> None:
    first, second = (opened.first("MatMul", index) for index in (0, 1))
    first.attrib["name"], second.attrib["name"] = second.attrib["name"], first.attrib["name"]


def _without_edge(opened: Net) -> None:
    edges = opened.root.find("edges")
    assert edges is not None
    edges.remove(opened.into(opened.first("ScaledDotProductAttention"))[3])


def _no_node(opened: Net) -> None:
    layers = opened.root.find("layers")
    assert layers is not None
    layers.remove(opened.first("Sigmoid", 1))


def _said(file: str, **values: Any) -> Plant:
    return lambda made: set_json(made.folder / file, **values)


def _noted(tag: str, value: str, file: str = _TOKENIZER) -> Plant:
    return net(lambda opened: opened.note(tag, value), file)


def _noted_by_another_release(opened: Net) -> None:
    opened.note("eos_token_id", "40")
    opened.note("openvino_tokenizers_version", "2026.0.0.0-1-other")


def _other_graph(made: WrittenModel) -> None:
    """The detokenizer in the place of the tokenizer."""
    for suffix in (".xml", ".bin"):
        content = (made.folder / _DETOKENIZER).with_suffix(suffix).read_bytes()
        (made.folder / _TOKENIZER).with_suffix(suffix).write_bytes(content)


def _detokenizer_misreads(content: bytes) -> bytes:
    assert b"cat" in content
    return content.replace(b"cat", b"cow", 1)


_ATTENTION = "ScaledDotProductAttention"
_NORM = [names.tensor("input_layernorm", layer) for layer in range(3)]
_COMPUTED: tuple[tuple[str, str, Plant], ...] = (
    ("fp32", "another epsilon", _number(1e-5, 1e-3)),
    ("fp32", "another scale of attention", _number(0.25, 0.3)),
    ("fp32", "sines of another base", _table("sin_cache", lambda table: np.multiply(table, 1.001, out=table))),
    ("fp32", "cosines of another position", _table("cos_cache", lambda t: np.copyto(t, np.roll(t, 1, 0)))),
    ("fp32", "attention is causal by itself", _data(_ATTENTION, causal="true")),
    ("fp32", "keys are read as values", _rewired(_ATTENTION, 1, 2, _source(_ATTENTION, 1, 1))),
    ("fp32", "queries of another layer", _rewired(_ATTENTION, 2, 0, _source(_ATTENTION, 1, 0))),
    ("fp32", "no mask", net(_without_edge)),
    ("fp32", "a state is not updated", _data("Assign", variable_id="other")),
    ("fp32", "a state is never read", _data("ReadValue", 1, variable_id="other")),
    ("fp32", "a matrix the other way round", _data("MatMul", 3, transpose_b="false")),
    ("fp32", "another activation", net(lambda opened: opened.first("Sigmoid").attrib.update(type="Tanh"))),
    ("fp32", "a sum is a product", net(lambda opened: opened.first("Add", 3).attrib.update(type="Multiply"))),
    ("fp32", "another axis", _data("Concat", 2, axis="1")),
    ("fp32", "two products have changed names", net(_two_names)),
    ("fp32", "a node is missing", net(_no_node)),
    ("fp32", "a norm of another layer", net(lambda opened: _norm_of_another(opened))),
    ("fp32", "the logits of one token are lowered", net(_lowered_token)),
    ("fp16", "the same by another release", net(_lowered_by_another_release)),
    ("int4", "the same with levels", net(_lowered_token)),
    ("int8", "the same with levels of 8 bits", net(_lowered_token)),
    ("int8", "a scale is added", net(lambda opened: opened.first("Multiply", 2).attrib.update(type="Add"))),
    ("int4", "levels are widened otherwise", _data("Convert", 1, destination_type="bf16")),
    ("int8", "an older operator", net(lambda opened: opened.first("MatMul").attrib.update(version="opset0"))),
    ("fp16", "an option for the runtime", net(lambda opened: opened.note("runtime_options", "KV_CACHE_PRECISION=u8"))),
    ("fp16", "a precision of a port", net(lambda opened: _first_port(opened).attrib.update(precision="FP16"))),
    ("int8", "a name of an output", net(lambda opened: _first_port(opened).attrib.update(names="logits"))),
)
_DAMAGES: tuple[tuple[str, str, Plant], ...] = (
    ("fp32", "a weight has another name", net(lambda opened: opened.named(_NORM[0]).attrib.update(name="other"))),
    ("int4", "a weight has another shape", net(lambda opened: _weight(opened).attrib.update(shape="1, 3, 32"))),
    ("int8", "levels are read as other numbers", net(lambda opened: _weight(opened).attrib.update(element_type="u8"))),
    ("fp32", "half a graph", file_plant(MODEL_FILE, lambda content: content[: len(content) // 2])),
    ("fp32", "no graph", missing(MODEL_FILE)),
    ("fp16", "the note of EOS", _noted("eos_token_id", "40")),
    ("fp16", "the note of EOS by another release", net(_noted_by_another_release, _TOKENIZER)),
    ("int8", "the note of the chat template", _noted("chat_template", "user: buy")),
    ("int8", "a note of a simpler chat template", _noted("simplified_chat_template", "user: buy")),
    ("int4", "BOS is put before texts", _noted("add_special_tokens", "False")),
    ("int4", "special tokens are shown", _noted("skip_special_tokens", "False", _DETOKENIZER)),
    ("fp32", "words of the tokenizer", file_plant("openvino_tokenizer.bin", _detokenizer_misreads)),
    ("fp16", "words of the detokenizer", file_plant("openvino_detokenizer.bin", _detokenizer_misreads)),
    ("fp32", "the graph of another tokenizer", _other_graph),
    ("int8", "the tokenizer reads otherwise", net(lambda opened: _edges_swapped(opened), _TOKENIZER)),
    ("int4", "no detokenizer", missing(_DETOKENIZER)),
    ("int4", "no words of the tokenizer", missing("openvino_tokenizer.bin")),
    ("fp32", "another EOS", _said("generation_config.json", eos_token_id=3)),
    ("fp16", "another family", _said("config.json", model_type="mistral")),
    ("int8", "code of the model", _said("config.json", auto_map={"AutoConfig": "foreign.Foreign"})),
    ("int4", "BOS in the config", _said("tokenizer_config.json", add_bos_token=True)),
    ("fp32", "settings of the runtime", added("openvino_config.json", b'{"KV_CACHE_PRECISION": "u8"}')),
)


def _first_port(opened: Net) -> ElementTree.Element:
    port = opened.first("MatMul", 2).find("output/port")
    assert port is not None
    return port


def _weight(opened: Net) -> ElementTree.Element:
    data = opened.named(names.weight("up_proj", 1)).find("data")
    assert data is not None
    return data


def _norm_of_another(opened: Net) -> None:
    """What is multiplied with a gain, with that of another layer."""
    ids = [opened.named(name).attrib["id"] for name in _NORM[:2]]
    edge = next(edge for edge in opened.root.iterfind("edges/edge") if edge.attrib["from-layer"] == ids[0])
    edge.attrib["from-layer"] = ids[1]


def _edges_swapped(opened: Net) -> None:
    edges = opened.into(max(opened.layers, key=lambda layer: len(layer.findall("input/port"))))
    one, other = next(
        pair for pair in itertools.pairwise(edges) if pair[0].attrib["from-port"] == pair[1].attrib["from-port"]
    )
    one.attrib["from-layer"], other.attrib["from-layer"] = other.attrib["from-layer"], one.attrib["from-layer"]


SUBJECT = Subject(
    "openvino",
    {
        "fp32": Base("llama-biases", "fp32"),
        "fp16": Base("gemma3-all", "fp16"),
        "int8": Base("qwen3-biases", "int8"),
        "int4": Base("granite-all", "int4"),
    },
    _open,
    _holds,
    DATA_FILE,
    (
        *(FormatFault(f"{base}: {id}", base, plant, (PARITY,)) for base, id, plant in _COMPUTED),
        *(FormatFault(f"{base}: {id}", base, plant, (DAMAGE,)) for base, id, plant in _DAMAGES),
    ),
)
