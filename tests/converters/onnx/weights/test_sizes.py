"""The bytes that are told from shapes are those that are written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.models import write_micro_model
from support.product import OnnxForm, choose_precision, read_spec

from converters.onnx import write_onnx
from converters.onnx.precision import mixed_precision
from converters.onnx.weights.sizes import weight_bytes


def stored_bytes(folder: Path) -> int:
    """Of all weights and rotary caches."""
    graph = onnx.load(folder / "model.onnx").graph
    return sum(len(item.raw_data) for item in graph.initializer)


TIED: dict[str, Any] = {"model_type": "llama", "tie_word_embeddings": True}
UNTIED: dict[str, Any] = {"model_type": "llama", "tie_word_embeddings": False}
MIXTURE: dict[str, Any] = {"model_type": "qwen3_moe", "moe_intermediate_size": 20}  # no whole blocks


@pytest.mark.parametrize(
    ("values", "name", "options"),
    [
        (UNTIED, "fp32", {}),
        (TIED, "fp16", {}),
        (TIED, "int8", {}),
        (TIED, "w8a8", {}),
        (UNTIED, "int4", {"symmetric": False}),
        (MIXTURE, "int8", {}),
        (MIXTURE, "int4", {"embeddings": False}),
    ],
)
def test_weights_take_as_many_bytes(
    tmp_path: Path, values: dict[str, Any], name: Any, options: dict[str, Any]
) -> None:
    model = write_micro_model(tmp_path / "m", **values)
    precision, folder = choose_precision(name, **options), tmp_path / "onnx"
    folder.mkdir()
    write_onnx(model, folder, OnnxForm(precision))
    spec = read_spec(model)
    told = weight_bytes(spec, precision)
    assert told == pytest.approx(stored_bytes(folder), rel=0.08)  # rows of zero points end in whole bytes


@pytest.mark.parametrize(("rows", "tied", "tables"), [(1100, True, 1), (1100, False, 2), (1000, False, 0)])
def test_places_of_rows_count(rows: int, tied: bool, tables: int, tmp_path: Path) -> None:
    model = write_micro_model(tmp_path / "m", model_type="llama", tie_word_embeddings=tied, vocab_size=rows)
    spec = read_spec(model)
    precision = mixed_precision(4.5)
    assert precision.quantization is not None
    alike = replace(precision, quantization=replace(precision.quantization, splits_tables=False))
    assert weight_bytes(spec, precision) - weight_bytes(spec, alike) == tables * 4 * spec.vocab_size
