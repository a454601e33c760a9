"""A file written tensor by tensor is one that the safetensors library reads."""

from __future__ import annotations

from collections.abc import Iterable
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


def write(path: Path, values: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype = torch.float32) -> None:
    with SafetensorsWriter(path, SHAPES, dtype) as writer:
        for name, tensor in values:
            writer.write(name, tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_library_reads_what_was_written(tmp_path: Path, dtype: torch.dtype) -> None:
    """Double precision and transposed tensors are converted."""
    values = tensors()
    converted = {**values, "first": values["first"].double().T.contiguous().T}
    write(tmp_path / "file", converted.items(), dtype)
    read = load_file(tmp_path / "file")
    assert read.keys() == SHAPES.keys()
    assert all(read[name].dtype == dtype and torch.equal(read[name], one.to(dtype)) for name, one in values.items())
    with safe_open(tmp_path / "file", framework="pt") as handle:
        assert handle.metadata() == {"format": "pt"}
    assert int.from_bytes((tmp_path / "file").read_bytes()[:8], "little") % 8 == 0


def test_a_tensor_out_of_turn_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    values, path = tensors(), tmp_path / "file"
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
