"""IRs of OpenVINO: nodes, connections, constants and notes, the same of the tokenizer's graphs, and the configs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from planted.formats.files import file_plant
from planted.formats.planting import DAMAGE, PARITY, Base, FormatFault, Parts, Plant, Subject
from planted.kinds import Kind
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


def _noted(tag: str, value: str, file: str = _TOKENIZER) -> Plant:
    return net(lambda opened: opened.note(tag, value), file)


def _detokenizer_misreads(content: bytes) -> bytes:
    assert b"cat" in content
    return content.replace(b"cat", b"cow", 1)


_ATTENTION = "ScaledDotProductAttention"
_COMPUTED: tuple[tuple[Kind, str, str, Plant], ...] = (
    ("constant", "fp32", "another epsilon", _number(1e-5, 1e-3)),
    ("attribute", "fp32", "attention is causal by itself", _data(_ATTENTION, causal="true")),
    ("wiring", "int8", "a scale is added", net(lambda opened: opened.first("Multiply", 2).attrib.update(type="Add"))),
    ("bits", "int4", "levels are widened otherwise", _data("Convert", 1, destination_type="bf16")),
    (
        "metadata",
        "fp16",
        "an option for the runtime",
        net(lambda opened: opened.note("runtime_options", "KV_CACHE_PRECISION=u8")),
    ),
)
_DAMAGES: tuple[tuple[Kind, str, str, Plant], ...] = (
    (
        "bits",
        "int8",
        "levels are read as other numbers",
        net(lambda opened: _weight(opened).attrib.update(element_type="u8")),
    ),
    ("metadata", "int4", "BOS is put before texts", _noted("add_special_tokens", "False")),
    ("tokenizer", "fp32", "words of the tokenizer", file_plant("openvino_tokenizer.bin", _detokenizer_misreads)),
)


def _weight(opened: Net) -> ElementTree.Element:
    data = opened.named(names.weight("up_proj", 1)).find("data")
    assert data is not None
    return data


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
        *(FormatFault(kind, f"{base}: {id}", base, plant, (PARITY,)) for kind, base, id, plant in _COMPUTED),
        *(FormatFault(kind, f"{base}: {id}", base, plant, (DAMAGE,)) for kind, base, id, plant in _DAMAGES),
    ),
)
