"""Sizes, runtimes, and the times of files in turn; no time is asserted."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.frontier.measuring import measure_speeds, runtime_of, weight_bytes

from seap_export.errors import InputError


def test_the_runtime_follows_from_the_files(dense: Path, graphs: dict[str, Path], tmp_path: Path) -> None:
    assert runtime_of(dense) == "torch"
    assert runtime_of(graphs["ours"].parent) == "onnxruntime"
    (tmp_path / "model.gguf").touch()
    assert runtime_of(tmp_path) == "llama.cpp"
    with pytest.raises(InputError, match="there is no model"):
        runtime_of(tmp_path / "missing")


def test_only_weights_and_their_graph_count(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.onnx.data", "tokenizer.json", "openvino_model.bin", "openvino_tokenizer.bin"):
        (tmp_path / name).write_bytes(b"123")
    assert weight_bytes(tmp_path) == 9
    (tmp_path / "stored").mkdir()
    (tmp_path / "stored" / "model.safetensors").write_bytes(b"1234")
    assert weight_bytes(tmp_path) == 4  # what runs beside it is the same, unpacked


def test_each_file_has_its_times(graphs: dict[str, Path]) -> None:
    files = {name: (graphs[name].parent, "onnxruntime") for name in ("ours", "last")}
    speeds = measure_speeds(files, 96, threads=1, runs=2, lengths=(4, 8, 3))
    assert speeds.keys() == files.keys()
    for speed in speeds.values():
        assert speed.request_s > speed.step_s > 0
        assert speed.prompt_s > 0
