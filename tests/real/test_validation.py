"""The gate on a variant of SmolLM2: one wrong weight among 113 million."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

pytestmark = pytest.mark.release


def test_one_wrong_weight_is_stopped_and_followed_to_its_layer(
    demo: Path, tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for part in ("reading-0.2", "calibration"):
        shutil.copytree(demo / part, tmp_path / part)
    folder = tmp_path / "reading-0.2" / "onnx"
    proto = onnx.load(folder / "model.onnx", load_external_data=False)
    name = "model.layers.17.self_attn.o_proj.weight.packed"
    location = {e.key: e.value for t in proto.graph.initializer if t.name == name for e in t.external_data}
    with (folder / "model.onnx.data").open("r+b") as file:
        file.seek(int(location["offset"]))
        values = np.frombuffer(file.read(int(location["length"])), np.uint8).copy()
        values[values.argmin()] = 255  # from the lowest level to the highest one
        file.seek(int(location["offset"]))
        file.write(values.tobytes())
    few = ("--prompts", "1", "--long-tokens", "48", "--decode-steps", "2")
    done = run("validate", folder.parent, *few, "--bisect", "--quiet", code=3)
    assert " layers.17.self_attn.o_proj (and " in done.stderr
    assert done.stderr.count("\n") == 1
