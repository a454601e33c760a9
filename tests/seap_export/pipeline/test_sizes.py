"""The bytes that are told from shapes are those that are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from micro import write_micro_model

from converters import write_onnx
from converters.form import OnnxForm
from converters.precision import choose_precision
from seap_export.families import model_spec
from seap_export.pipeline.sizes import weight_bytes
from seap_export.sources.config import read_json


def stored_bytes(folder: Path) -> int:
    """Of all weights, without the rotary caches."""
    graph = onnx.load(folder / "model.onnx").graph
    return sum(len(item.raw_data) for item in graph.initializer if not item.name.endswith("_cache"))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("name", "options"),
    [("fp32", {}), ("fp16", {}), ("int8", {}), ("int4", {"symmetric": False}), ("int4", {"embeddings": False})],
)
def test_weights_take_as_many_bytes(tmp_path: Path, tied: bool, name: Any, options: dict[str, Any]) -> None:
    model = write_micro_model(tmp_path / "m", model_type="llama", tie_word_embeddings=tied)
    precision, folder = choose_precision(name, **options), tmp_path / "onnx"
    folder.mkdir()
    write_onnx(model, folder, OnnxForm(precision))
    told = weight_bytes(model_spec(read_json(model / "config.json")), torch.float32, precision)
    assert told["hf"] == pytest.approx((model / "model.safetensors").stat().st_size, rel=0.05)
    assert told["onnx"] == pytest.approx(stored_bytes(folder), rel=0.08)  # rows of zero points end in whole bytes
    removed = weight_bytes(model_spec(read_json(model / "config.json")), torch.float32, precision, removed=1000)
    assert told["hf"] - removed["hf"] == 4000
