"""A file written tensor by tensor is one that the safetensors library reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from seap_export.model.sources.tensor_writer import SafetensorsWriter

SHAPES: dict[str, tuple[int, ...]] = {"first": (3, 5), "second": (7,), "third": (1, 1)}


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def write(path: Path, values: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> None:
    with SafetensorsWriter(path, SHAPES, dtype) as writer:
        for name, tensor in values.items():
            writer.write(name, tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_library_reads_what_was_written(tmp_path: Path, dtype: torch.dtype) -> None:
    write(tmp_path / "file", tensors(), dtype)
    read = load_file(tmp_path / "file")
    assert read.keys() == SHAPES.keys()
    for name, tensor in tensors().items():
        assert read[name].dtype == dtype
        assert torch.equal(read[name], tensor.to(dtype))


def test_the_header_says_that_the_tensors_are_torch_s(tmp_path: Path) -> None:
    write(tmp_path / "file", tensors())
    with safe_open(tmp_path / "file", framework="pt") as handle:
        assert handle.metadata() == {"format": "pt"}


def test_the_data_start_at_a_multiple_of_eight_bytes(tmp_path: Path) -> None:
    write(tmp_path / "file", tensors())
    data = (tmp_path / "file").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    assert json.loads(data[8 : 8 + length])["second"]["data_offsets"] == [60, 88]


def test_double_precision_and_transposed_tensors_are_converted(tmp_path: Path) -> None:
    values = tensors()
    write(tmp_path / "file", {**values, "first": values["first"].double().T.contiguous().T})
    assert torch.equal(load_file(tmp_path / "file")["first"], values["first"])


@pytest.mark.parametrize("order", [["second"], ["first", "third"], ["first", "first"], ["unknown"]])
def test_a_tensor_out_of_turn_is_refused(tmp_path: Path, order: list[str]) -> None:
    values = tensors() | {"unknown": torch.ones(1)}
    with pytest.raises(ValueError, match="out of order"):
        write_in_order(tmp_path / "file", order, values)


def write_in_order(path: Path, order: list[str], values: dict[str, torch.Tensor]) -> None:
    with SafetensorsWriter(path, SHAPES, torch.float32) as writer:
        for name in order:
            writer.write(name, values[name])


def test_one_tensor_more_than_announced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="out of order"):
        write_in_order(tmp_path / "file", [*SHAPES, "third"], tensors())


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shape \[5, 3\], expected \[3, 5\]"):
        write(tmp_path / "file", tensors() | {"first": tensors()["first"].T})


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing: \['second', 'third'\]"):
        write_in_order(tmp_path / "file", ["first"], tensors())


def test_an_error_while_writing_is_not_hidden_by_the_missing_tensors(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="the cause"), SafetensorsWriter(tmp_path / "file", SHAPES, torch.float32):
        raise KeyError("the cause")
