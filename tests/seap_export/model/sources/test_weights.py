"""Weights are read from one file or many alike, damaged ones are refused, and a file is written tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from seap_export.errors import InputError
from seap_export.model.sources.tensor_writer import SafetensorsWriter
from seap_export.model.sources.weights import SafetensorsReader, main_dtype

INDEX, SECOND = "model.safetensors.index.json", "model-00002-of-00002.safetensors"


def some_tensors(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(3, 4, generator=generator).to(dtype) for name in ("a", "b", "c", "d")}


def write_one(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_shards(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Two files, the tensors in turn in one and the other."""
    shards = {f"model-0000{part + 1}-of-00002.safetensors": list(tensors)[part::2] for part in range(2)}
    for file, names in shards.items():
        save_file({name: tensors[name] for name in names}, folder / file)
    weight_map = {name: file for file, names in shards.items() for name in names}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), "utf-8")
    return folder


def test_a_tensor_in_two_files_has_the_same_values_in_both(tmp_path: Path) -> None:
    """Otherwise it depends on the loader which of them counts."""
    tensors = some_tensors()
    write_shards(tmp_path, tensors)
    second = tmp_path / "model-00002-of-00002.safetensors"
    save_file({**load_file(second), "a": tensors["a"]}, second)
    assert torch.equal(SafetensorsReader(tmp_path).read("a")["a"], tensors["a"])
    for other in (tensors["a"] + 1, tensors["a"].half(), tensors["a"][:2]):
        save_file({**load_file(second), "a": other}, second)
        with pytest.raises(InputError, match=r"00002\.safetensors: tensor 'a' has other values than in model-00001"):
            SafetensorsReader(tmp_path)


def test_weights_keep_their_dtypes_but_double_precision(tmp_path: Path) -> None:
    tensors = {"z": torch.full((2,), 0.1, dtype=torch.bfloat16)} | some_tensors(torch.float16)
    reader = SafetensorsReader(write_one(tmp_path, tensors))
    assert main_dtype(reader) == torch.float16
    assert reader.dtypes() == {name: tensor.dtype for name, tensor in tensors.items()}
    assert all(one.dtype == tensors[name].dtype for name, one in reader.read("az").items())
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in reader.read("az").items())
    reader = SafetensorsReader(write_one(tmp_path, some_tensors(torch.float64)))
    assert main_dtype(reader) == reader.read("a")["a"].dtype == torch.float32


def test_shards_with_an_index_equal_one_file_beside_which_they_are_leftovers(tmp_path: Path) -> None:
    tensors = some_tensors()
    many = SafetensorsReader(write_shards(tmp_path, tensors))
    assert len(many.files) == 2
    assert many.shapes() == dict.fromkeys("abcd", (3, 4))
    assert many.dtypes() == dict.fromkeys("abcd", torch.float32)
    read = many.read("dca")
    assert list(read) == ["d", "c", "a"]
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read.items())
    assert SafetensorsReader(write_one(tmp_path, {"a": torch.ones(2)})).shapes() == {"a": (2,)}


def _write(file: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text(text, "utf-8")


def _point_outside(folder: Path, where: str) -> None:
    (folder / "inner").mkdir()
    for file in (folder.parent, folder / "inner"):
        write_one(file, some_tensors())
    outside = where.replace("ABSOLUTE", str(folder.parent / "model.safetensors"))
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": outside}}), "utf-8")


def test_a_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    file = write_one(tmp_path, some_tensors()) / "model.safetensors"
    whole = file.read_bytes()
    for size in (0, 4, 40, -1):
        file.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"model\.safetensors: truncated"):
            SafetensorsReader(tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_write("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), r"safetensors: .*lfs pull"),
        (lambda folder: write_one(folder, {"q": torch.ones(2, dtype=torch.int8)}), "I8"),
        (lambda folder: None, r"model\.safetensors: weights are missing"),
        (lambda folder: (write_shards(folder, some_tensors()) / SECOND).unlink(), f"{SECOND}: weights are missing"),
        (_write("adapter_config.json", "{}"), "merge it into its base model"),
        *(
            (_write(INDEX, text), r"index\.json: not a valid weight index")
            for text in ("{", "[]", '{"weight_map": {"a": null}}', '{"weight_map": ' + "[" * 100_000)
        ),
        *(
            (partial(_point_outside, where=where), "points outside the model folder")
            for where in ("../model.safetensors", "ABSOLUTE", "inner/model.safetensors", "..")
        ),
    ],
)
def test_what_is_no_weights_is_refused(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    (tmp_path / "model").mkdir()
    make(tmp_path / "model")
    with pytest.raises(InputError, match=message):
        SafetensorsReader(tmp_path / "model")


SHAPES: dict[str, tuple[int, ...]] = {"first": (3, 5), "second": (7,), "third": (1, 1)}


def tensors_to_write() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def write(path: Path, values: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype = torch.float32) -> None:
    with SafetensorsWriter(path, SHAPES, dtype) as writer:
        for name, tensor in values:
            writer.write(name, tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_library_reads_what_was_written(tmp_path: Path, dtype: torch.dtype) -> None:
    """Double precision and transposed tensors are converted."""
    values = tensors_to_write()
    converted = {**values, "first": values["first"].double().T.contiguous().T}
    write(tmp_path / "file", converted.items(), dtype)
    read = load_file(tmp_path / "file")
    assert read.keys() == SHAPES.keys()
    assert all(read[name].dtype == dtype and torch.equal(read[name], one.to(dtype)) for name, one in values.items())
    with safe_open(tmp_path / "file", framework="pt") as handle:
        assert handle.metadata() == {"format": "pt"}
    assert int.from_bytes((tmp_path / "file").read_bytes()[:8], "little") % 8 == 0


def test_a_tensor_out_of_turn_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    values, path = tensors_to_write(), tmp_path / "file"
    for names, message in (
        (["second"], "out of order"),
        (["first", "third"], "out of order"),
        ([*SHAPES, "third"], "out of order"),
        (["first"], r"missing: \['second', 'third'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            write(path, [(name, values[name]) for name in names])
    with pytest.raises(ValueError, match=r"shape \[5, 3\], expected \[3, 5\]"):
        write(path, [("first", values["first"].T)])
    # an error while writing is not hidden by the missing tensors
    with pytest.raises(KeyError, match="the cause"), SafetensorsWriter(path, SHAPES, torch.float32):
        raise KeyError("the cause")
