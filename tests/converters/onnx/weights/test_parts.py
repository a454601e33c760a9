"""Parts of tables are read by their names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.models import write_micro_model
from support.product import TableRows

from converters.onnx.weights.parts import PartsReader
from seap_export.errors import ArtifactError
from seap_export.model.sources.weights import SafetensorsReader

NAME = "lm_head.weight"


def test_parts_and_other_weights_are_read(tmp_path: Path) -> None:
    reader = SafetensorsReader(write_micro_model(tmp_path / "m", model_type="llama"))
    whole = reader.read([NAME])[NAME]
    table = TableRows(NAME, 64, ("28" * len(whole))[: len(whole)])
    parts = PartsReader(reader, [table])
    names = [f"{NAME}.8", "model.norm.weight", NAME, f"{NAME}.2"]
    read = parts.read(names)
    assert list(read) == names
    assert torch.equal(read[names[0]], whole[1::2])
    assert torch.equal(read[names[3]], whole[::2])
    assert torch.equal(read[NAME], whole)
    assert parts.shapes()[names[3]] == tuple(whole[::2].shape)
    assert parts.dtypes()[names[0]] == whole.dtype


@pytest.mark.parametrize(("name", "rows"), [(NAME, 3), ("model.other.weight", 3)])
def test_bits_of_other_rows_are_refused(name: str, rows: int, tmp_path: Path) -> None:
    reader = SafetensorsReader(write_micro_model(tmp_path / "m", model_type="llama"))
    with pytest.raises(ArtifactError, match=f"bits of {rows} rows are known, and '{name}' has others"):
        PartsReader(reader, [TableRows(name, 64, "4" * rows)])
