"""Faults planted in good IRs: each is found without running them, or is on the list of those that are not."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from support.corpora import WORDS
from support.editing import set_json
from support.formats import write_ir_model
from support.formats.written import WrittenModel

from converters.openvino.ir_file import DATA_FILE, MODEL_FILE, read_ir
from seap_export.errors import ArtifactError

pytestmark = pytest.mark.needs("openvino")
Fault = Callable[[WrittenModel], None]
Edit = Callable[[np.ndarray], None]
QKV, DOWN = "model.layers.0.self_attn.qkv_proj.weight", "model.layers.0.mlp.down_proj.weight"
BIAS = "model.layers.0.self_attn.o_proj.bias"


def numbers(name: str, edit: Edit) -> Fault:
    """Changes the numbers of a constant, in its shape; two integers in a byte stay together."""

    def plant(made: WrittenModel) -> None:
        ir = read_ir(made.folder)
        constant = ir.constants[name]
        dtype = {"f32": np.float32, "f16": np.float16, "i8": np.int8, "i4": np.uint8}[constant.element_type]
        stored = np.memmap(ir.data_file, dtype, "r+", constant.offset, (constant.size // np.dtype(dtype).itemsize,))
        edit(stored.reshape(constant.shape[0], -1))
        stored.flush()

    return plant


def node(
    kind: str, which: Callable[[ElementTree.Element], bool], edit: Callable[[ElementTree.Element], None]
) -> Fault:
    """Changes the first layer of a type that is the one."""

    def plant(made: WrittenModel) -> None:
        path = made.folder / MODEL_FILE
        net = ElementTree.parse(path)
        layers = net.getroot().iterfind("layers/layer")
        edit(next(layer for layer in layers if layer.attrib["type"] == kind and which(layer)))
        net.write(path)

    return plant


def inlined(value: float, other: float) -> Fault:
    """Changes the constant of one number that has this value, which is an epsilon or a scale."""

    def plant(made: WrittenModel) -> None:
        ir = read_ir(made.folder)
        for constant in ir.constants.values():
            if constant.size == 4 and constant.element_type == "f32":
                stored = np.memmap(ir.data_file, np.float32, "r+", constant.offset, (1,))
                if stored[0] == np.float32(value):
                    stored[0] = other
                    stored.flush()
                    return
        raise AssertionError(f"no constant is {value}")

    return plant


def file(name: str, edit: Callable[[Path], None]) -> Fault:
    return lambda made: edit(made.folder / name)


def json_value(name: str, key: str, value: object) -> Fault:
    return file(name, lambda path: set_json(path, **{key: value}))


def swap(rows: np.ndarray, first: slice | int, second: slice | int) -> None:
    rows[first], rows[second] = rows[second].copy(), rows[first].copy()


def _other_tokenizer(made: WrittenModel) -> None:
    path = made.folder / "tokenizer.json"
    values = json.loads(path.read_text("utf-8"))
    words = values["model"]["vocab"]
    words[WORDS[0]], words[WORDS[1]] = words[WORDS[1]], words[WORDS[0]]
    path.write_text(json.dumps(values), "utf-8")


def _other_tokenizer_graph(made: WrittenModel) -> None:
    path = made.folder / "openvino_tokenizer.bin"
    other = made.folder / "openvino_detokenizer.xml"
    (made.folder / "openvino_tokenizer.xml").write_bytes(other.read_bytes())
    path.write_bytes((made.folder / "openvino_detokenizer.bin").read_bytes())


def _crossed_edges(made: WrittenModel) -> None:
    """The attention of the first layer reads the keys as values."""
    path = made.folder / MODEL_FILE
    net = ElementTree.parse(path)
    attention = next(
        layer for layer in net.getroot().iterfind("layers/layer") if layer.attrib["type"].startswith("Scaled")
    )
    edges = [
        edge for edge in net.getroot().iterfind("edges/edge") if edge.attrib["to-layer"] == attention.attrib["id"]
    ]
    key, value = (next(edge for edge in edges if edge.attrib["to-port"] == port) for port in "12")
    value.attrib.update({name: key.attrib[name] for name in ("from-layer", "from-port")})
    net.write(path)


def _scaled_by(factor: float) -> Edit:
    def edit(rows: np.ndarray) -> None:
        rows *= rows.dtype.type(factor)

    return edit


def _first(rows: np.ndarray, value: float) -> None:
    rows.flat[0] = value


#: Name, precision and fault.
CAUGHT: dict[str, tuple[str, Fault]] = {
    "two rows change places": ("fp32", numbers(DOWN, lambda rows: swap(rows, 3, 7))),
    "keys and values change places": ("fp16", numbers(QKV, lambda rows: swap(rows, slice(48, 96), slice(96, 144)))),
    "a bias is missing": ("fp32", numbers(BIAS, lambda rows: rows.fill(0))),
    "a scale is 2 % off": ("int4", numbers(f"{DOWN}.scale", lambda rows: swap_scale(rows))),
    "a level is one off": ("int8", numbers(DOWN, lambda rows: np.add(rows[0, :4], 1, out=rows[0, :4]))),
    "the order of integers in a byte": ("int4", numbers(DOWN, lambda rows: nibbles(rows))),
    "the base of the rotation": ("fp32", numbers("sin_cache", lambda rows: np.multiply(rows, 1.001, out=rows))),
    "the gain of a norm": ("fp32", numbers("model.norm.weight", _scaled_by(1.01))),
    "a weight is NaN": ("fp16", numbers("lm_head.weight", lambda rows: _first(rows, np.nan))),
    "a scale is infinite": ("int4", numbers(f"{DOWN}.scale", lambda rows: _first(rows, np.inf))),
    "the epsilon of a norm": ("fp32", inlined(1e-5, 1e-3)),
    "the scale of attention": ("fp32", inlined(0.25, 0.3)),
    "what attention reads": ("fp32", _crossed_edges),
    "a state is not updated": (
        "fp32",
        node("Assign", lambda layer: True, lambda layer: layer[0].attrib.update(variable_id="other")),
    ),
    "attention is causal by itself": (
        "fp32",
        node("ScaledDotProductAttention", lambda layer: True, lambda layer: layer[0].attrib.update(causal="true")),
    ),
    "a weight has another name": (
        "fp32",
        node("Const", lambda layer: layer.attrib["name"] == DOWN, lambda layer: layer.attrib.update(name="other")),
    ),
    "a weight has another shape": (
        "fp32",
        node(
            "Const", lambda layer: layer.attrib["name"] == DOWN, lambda layer: layer[0].attrib.update(shape="41, 96")
        ),
    ),
    "the data file is truncated": ("fp32", file(DATA_FILE, lambda path: path.write_bytes(path.read_bytes()[:-4]))),
    "the data file goes on": ("fp32", file(DATA_FILE, lambda path: path.write_bytes(path.read_bytes() + b"\0" * 64))),
    "the data file is missing": ("fp32", file(DATA_FILE, Path.unlink)),
    "the graph is truncated": ("fp32", file(MODEL_FILE, lambda path: path.write_bytes(path.read_bytes()[:-400]))),
    "the tokenizer of another model": ("fp32", _other_tokenizer),
    "the graph of another tokenizer": ("fp32", _other_tokenizer_graph),
    "no detokenizer": ("fp32", file("openvino_detokenizer.xml", Path.unlink)),
    "another EOS": ("fp32", json_value("generation_config.json", "eos_token_id", 3)),
    "another family": ("fp32", json_value("config.json", "model_type", "mistral")),
}
#: What neither comparison tells, and why.
HARMLESS: dict[str, tuple[str, Fault]] = {
    # between tensors, which nothing reads
    "bytes that align a tensor": ("fp32", lambda made: _alignment(made)),
    # a token for people, which no runtime reads
    "the name of the graph": ("fp32", lambda made: _renamed(made)),
}


def swap_scale(rows: np.ndarray) -> None:
    rows[0] *= np.float16(1.02)


def nibbles(rows: np.ndarray) -> None:
    rows[:] = (rows << np.uint8(4)) | (rows >> np.uint8(4))


def _alignment(made: WrittenModel) -> None:
    ir = read_ir(made.folder)
    used = sorted((constant.offset, constant.offset + constant.size) for constant in ir.constants.values())
    gap = next(end for (_, end), (start, _) in itertools.pairwise(used) if start > end)
    data = bytearray((made.folder / DATA_FILE).read_bytes())
    data[gap] = 255
    (made.folder / DATA_FILE).write_bytes(data)


def _renamed(made: WrittenModel) -> None:
    path = made.folder / MODEL_FILE
    net = ElementTree.parse(path)
    net.getroot().attrib["name"] = "other"
    net.write(path)


def first_finding(made: WrittenModel) -> str | None:
    """The first line that is said of it; that it cannot be read is one, too."""
    lines = itertools.chain(
        made.format.damages(made.source, made.folder), made.format.differences(made.source, made.folder)
    )
    try:
        return next(lines, None)
    except ArtifactError as error:
        return str(error)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], WrittenModel]:
    """The model at a precision, which is not to be changed."""
    folder = tmp_path_factory.mktemp("good")
    return cache(lambda precision: write_ir_model(folder / precision, "llama-gqa", precision, pruned=True))


@pytest.fixture
def planted(good: Callable[[str], WrittenModel], tmp_path: Path) -> Callable[[str, Fault], WrittenModel]:
    """A copy of the model at a precision, with a fault."""

    def make(precision: str, plant: Fault) -> WrittenModel:
        made = replace(good(precision), folder=tmp_path / "openvino")
        shutil.copytree(good(precision).folder, made.folder)
        plant(made)
        return made

    return make


@pytest.mark.parametrize("name", CAUGHT)
def test_found(name: str, planted: Callable[[str, Fault], WrittenModel]) -> None:
    line = first_finding(planted(*CAUGHT[name]))
    assert line
    assert "\n" not in line


@pytest.mark.parametrize("name", HARMLESS)
def test_not_found(name: str, planted: Callable[[str, Fault], WrittenModel]) -> None:
    assert first_finding(planted(*HARMLESS[name])) is None
