"""The two files of an IR: a graph in XML, and the numbers of its constants.

OpenVINO writes the graph with inputs that stand for the weights. In the file each becomes a constant, whose numbers
are appended to the others one tensor at a time, so that no more than one is in memory and each is written once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from converters.format import Place
from converters.openvino.packages import require
from converters.openvino.stored_tensor import StoredTensor
from seap_export.errors import ArtifactError, EnvironmentFailure
from seap_export.model.families import names

MODEL_FILE = "openvino_model.xml"
DATA_FILE = "openvino_model.bin"
#: Each tensor starts at a multiple of so many bytes, where kernels read fastest.
_ALIGNMENT = 64
#: A note that only says what wrote a graph, with its tag.
_ORIGIN = re.compile(rb'<(\w+_version|original_tokenizer_class) value="[^"<>]*"\s*/>')
#: Bits of a number by type, as far as this package writes them.
_BITS: Mapping[str, int] = {"f64": 64, "f32": 32, "f16": 16, "i64": 64, "i32": 32, "i8": 8, "u8": 8, "i4": 4}


@dataclass(frozen=True)
class Constant:
    """Where the numbers of a constant are: `size` bytes from `offset` on in the data file."""

    element_type: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class Ir:
    """An IR that has been written.

    Attributes:
        places: The bytes of the data file that were read until now.
    """

    net: ElementTree.Element
    constants: Mapping[str, Constant]
    data_file: Path
    places: list[Place] = field(default_factory=list)

    def read(self, name: str) -> NDArray[np.uint8]:
        """Reads the bytes of a constant."""
        constant = self.constants.get(name)
        if constant is None:
            raise ArtifactError(f"{self.data_file.parent}: '{name}' is not stored; export again")
        data = np.fromfile(self.data_file, np.uint8, constant.size, offset=constant.offset)
        if data.size != constant.size:
            raise ArtifactError(f"{self.data_file}: is truncated; export again")
        self.places.append(Place(self.data_file, constant.offset, constant.offset + constant.size))
        return data


def write_ir(model: Any, tensors: Sequence[StoredTensor], folder: Path, on_layer: Callable[[int], None]) -> None:
    """Writes the graph and the data file of an IR; see `write_graph`."""
    constants, layer = write_graph(model, tensors, folder), None
    with (folder / DATA_FILE).open("ab") as file:
        for tensor in tensors:
            index = names.layer_of(tensor.name)
            if index != layer and layer is not None:
                on_layer(layer)
            layer = index
            file.write(bytes(constants[tensor.name].offset - file.tell()))
            for piece in tensor.write():
                file.write(piece.data)
    if layer is not None:
        on_layer(layer)


def write_graph(model: Any, tensors: Sequence[StoredTensor], folder: Path) -> Mapping[str, Constant]:
    """Writes the graph and all constants but `tensors`; returns where the numbers of these are to be written."""
    paths = folder / MODEL_FILE, folder / DATA_FILE
    try:
        require("openvino").serialize(model, *paths)
        net = ElementTree.parse(paths[0]).getroot()
    except (RuntimeError, ElementTree.ParseError) as error:  # a full disk shows in either way
        reason = " ".join(str(error).split())
        raise EnvironmentFailure(
            f"{folder}: OpenVINO cannot write the graph ({reason:.160}); free disk space or check the permissions"
        ) from error
    constants, end = {}, paths[1].stat().st_size
    for tensor in tensors:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        constants[tensor.name] = Constant(tensor.element_type, tensor.shape, start, tensor.size)
        end = start + tensor.size
    _fill(net, constants)
    ElementTree.ElementTree(net).write(paths[0], encoding="utf-8", xml_declaration=True)
    return constants


def _fill(net: ElementTree.Element, constants: Mapping[str, Constant]) -> None:
    """Turns the graph's inputs that stand for tensors into constants."""
    for layer in net.iterfind("layers/layer"):
        constant = constants.get(layer.attrib["name"])
        if layer.attrib["type"] != "Parameter" or constant is None:
            continue
        layer.attrib["type"] = "Const"
        data, port = layer.find("data"), layer.find("output/port")
        if data is None or port is None:
            raise ValueError(f"{constant} has no data or output")
        port.attrib.pop("names", None)
        data.attrib.clear()
        data.attrib.update(
            element_type=constant.element_type,
            shape=", ".join(map(str, constant.shape)),
            offset=str(constant.offset),
            size=str(constant.size),
        )


def read_ir(folder: Path) -> Ir:
    """Reads the graph of an IR, and where its constants are; no numbers are read yet."""
    path, data_file = folder / MODEL_FILE, folder / DATA_FILE
    for file in (path, data_file):
        if not file.is_file():
            raise ArtifactError(f"{file}: no such file; export again")
    try:
        net = ElementTree.parse(path).getroot()
        layers = [layer for layer in net.iterfind("layers/layer") if layer.attrib["type"] == "Const"]
        constants = {layer.attrib["name"]: _constant(layer.find("data")) for layer in layers}
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"{path}: not an IR of OpenVINO ({' '.join(str(error).split()):.120}); export again"
        ) from error
    size = data_file.stat().st_size
    end = max((constant.offset + constant.size for constant in constants.values()), default=0)
    if end != size:
        raise ArtifactError(f"{data_file}: has {size} bytes, but {MODEL_FILE} needs {end}; export again")
    return Ir(net, constants, data_file)


def copy_origins(source: Path, target: Path) -> None:
    """Takes the notes of a graph that say what wrote it into another one."""
    origins = {match[1]: match[0] for match in _ORIGIN.finditer(source.read_bytes())}
    text = target.read_bytes()
    target.write_bytes(_ORIGIN.sub(lambda match: origins.get(match[1], match[0]), text))


def _constant(data: ElementTree.Element | None) -> Constant:
    if data is None:
        raise ValueError("a constant without data")
    kind, shape = data.attrib["element_type"], tuple(int(size) for size in data.attrib["shape"].split(",") if size)
    constant = Constant(kind, shape, int(data.attrib["offset"]), int(data.attrib["size"]))
    if kind not in _BITS or constant.offset < 0 or constant.size != -(-prod(shape) * _BITS[kind] // 8):
        raise ValueError(f"a constant of {constant.size} bytes for {kind} {list(shape)}")
    return constant
