"""Weights are read from one file or many alike, and damaged or unfitting ones are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from seap_export.errors import InputError
from seap_export.model.sources.weights import SafetensorsReader, check_weights, main_dtype

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


def test_weights_that_differ_from_the_config_are_refused_by_tensor(tmp_path: Path) -> None:
    reader = SafetensorsReader(write_one(tmp_path, some_tensors()))
    whole = dict.fromkeys("abcd", (3, 4))
    check_weights(reader, whole, "model folder")
    for expected, message in (
        ({**whole, "e": (1,)}, "tensor 'e' is missing"),
        ({**whole, "b": (4, 3)}, r"'b' is \[3, 4\],.* \[4, 3\]"),
        (dict.fromkeys("abc", (3, 4)), "tensor 'd' is not part of the family"),
    ):
        with pytest.raises(InputError, match=f"model folder.*{message}"):
            check_weights(reader, expected, "model folder")


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
