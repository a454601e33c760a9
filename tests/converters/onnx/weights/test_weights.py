"""Weights are converted, written some rows at a time, with the same result as at once."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from support.product import OnnxForm, Precision, TableRows, choose_precision, read_spec, write_onnx

from converters.onnx.read_back import GraphWeights
from converters.onnx.weights import weights
from converters.onnx.weights.parts import PartsReader
from converters.onnx.weights.weights import LazyTensor, LazyWeights
from seap_export.errors import ArtifactError, InputError

SHAPES = {"a": (24, 10), "b": (8, 10), "c": (6,), "d": (8,)}


class Reader:
    """Random weights in bfloat16."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tensors = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in SHAPES.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(SHAPES)

    def dtypes(self) -> dict[str, torch.dtype]:
        return dict.fromkeys(SHAPES, torch.bfloat16)

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        return {name: self.tensors[name] for name in names}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(weights, "_ELEMENTS", 40)
    return 40


@pytest.fixture
def reader() -> Reader:
    return Reader()


def bytes_of(tensor: LazyTensor) -> bytes:
    file = io.BytesIO()
    tensor.tofile(file)
    return file.getvalue()


def test_pieces_are_small_and_give_the_whole(at_once: int, reader: Reader) -> None:
    weights, parts = LazyWeights(reader, Precision()), reader.tensors
    expected = {
        "stored": (weights.stored("a"), parts["a"]),
        "joined": (weights.joined(["c", "d"], "cd"), torch.cat([parts["c"], parts["d"]])),
        "transposed": (weights.transposed(["a"], "at"), parts["a"].T),
        "transposed together": (weights.transposed(["a", "b"], "ab"), torch.cat([parts["a"], parts["b"]]).T),
    }
    for name, (tensor, whole) in expected.items():
        assert isinstance(tensor, LazyTensor), name
        assert all(piece.numel() <= at_once and piece.dtype == torch.float32 for piece in tensor.pieces()), name
        assert np.array_equal(tensor.numpy(), whole.float().numpy()), name
        assert bytes_of(tensor) == whole.float().contiguous().numpy().tobytes(), name


@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_a_bad_number_in_the_last_piece_is_refused(at_once: int, reader: Reader, bad: float) -> None:
    reader.tensors["a"][-1, -1] = bad
    for weight in (
        LazyWeights(reader, Precision()).stored("a"),
        LazyWeights(reader, Precision()).transposed(["a"], "t"),
    ):
        with pytest.raises(InputError, match="'a' holds NaN or infinite"):
            bytes_of(weight)
    with pytest.raises(InputError, match="'a' holds NaN or infinite"):
        bytes_of(LazyWeights(reader, choose_precision("int4")).quantized(["a"], "q").packed)


def test_parts_of_tables_and_other_weights_are_read(reader: Reader) -> None:
    parts, whole = PartsReader(reader, [TableRows("a", 64, "28" * 12)]), reader.tensors["a"]
    read = parts.read(names := ["a.8", "c", "a", "a.2"])
    assert list(read) == names
    for given, wanted in zip(read.values(), (whole[1::2], reader.tensors["c"], whole, whole[::2]), strict=True):
        assert torch.equal(given, wanted)
    assert parts.shapes()["a.2"] == (12, 10)
    assert parts.dtypes()["a.8"] == torch.bfloat16
    for name in ("a", "other"):
        with pytest.raises(ArtifactError, match=f"bits of 3 rows are known, and '{name}' has others"):
            PartsReader(reader, [TableRows(name, 64, "4" * 3)])


@pytest.mark.parametrize("precision", ["fp16", "int4"])
def test_a_model_is_written_in_pieces(
    precision: Any, written: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = OnnxForm(choose_precision(precision))
    graph = written("llama", precision=form.precision)
    monkeypatch.setattr(weights, "_ELEMENTS", 512)
    out = tmp_path / "out"
    out.mkdir()
    write_onnx(graph.source, out, form)
    for name in ("model.onnx", "model.onnx.data"):
        assert (out / name).read_bytes() == (graph.folder / name).read_bytes()


def test_offsets_beyond_four_gigabytes(written: Callable[..., Any]) -> None:
    """As in the files of models in float32 from 1B on; a hole in the file takes no disk."""
    graph, hole = written("llama"), 5 << 30
    model = graph.folder / "model.onnx"
    proto = onnx.load(model, load_external_data=False)
    data = graph.folder / "model.onnx.data"
    content = data.read_bytes()
    with data.open("wb") as file:
        file.seek(hole)
        file.write(content)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "offset":
                entry.value = str(int(entry.value) + hole)
    onnx.save(proto, model)
    wanted = load_file(graph.source / "model.safetensors")
    read = GraphWeights(model, read_spec(graph.source)).read(wanted)
    assert all(torch.equal(read[name], tensor) for name, tensor in wanted.items())
    ids = np.arange(3, 9)[None]
    logits, _ = graph.run(ids, np.ones_like(ids))
    with torch.no_grad():
        expected = graph.model(torch.from_numpy(ids)).logits.numpy()
    assert np.abs(logits - expected).max() < 1e-4
