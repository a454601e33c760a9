"""The gate on variants of SmolLM2: its documentation's commands, and one wrong weight among 113 million."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

pytestmark = pytest.mark.release
ROOT = Path(__file__).parents[2]
COMMANDS = re.findall(r"^```sh\n(.*?)\n```", (ROOT / "docs" / "validation.md").read_text("utf-8"), re.MULTILINE)


def run(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_documented_commands(demo: Path) -> None:
    assert len(COMMANDS) == 3
    for command in COMMANDS:
        done = run(command.replace("demo-output", str(demo)))
        assert done.returncode == 0, done.stderr
        assert done.stdout
    report = json.loads(Path(f"{demo}-report.json").read_text("utf-8"))
    parity = report["variants"]["reading-0.2"]["parity"]["onnx"]
    assert parity["longest_tokens"] == 2048
    exact = [stage for stage in parity["cases"] if stage["case"].endswith(", in float32")]
    assert exact
    assert all(stage["max_abs"] < 1e-3 for stage in exact)


def test_one_wrong_weight_is_stopped_and_followed_to_its_layer(demo: Path, tmp_path: Path) -> None:
    for part in ("reading-0.2", "calibration"):
        shutil.copytree(demo / part, tmp_path / part)
    folder = tmp_path / "reading-0.2" / "onnx"
    proto = onnx.load(folder / "model.onnx", load_external_data=False)
    name = "model.layers.17.self_attn.o_proj.weight.packed"
    place = {e.key: e.value for t in proto.graph.initializer if t.name == name for e in t.external_data}
    with (folder / "model.onnx.data").open("r+b") as file:
        file.seek(int(place["offset"]))
        values = np.frombuffer(file.read(int(place["length"])), np.uint8).copy()
        values[values.argmin()] = 255  # from the lowest level to the highest one
        file.seek(int(place["offset"]))
        file.write(values.tobytes())
    done = run(f".venv/bin/seap-export validate {folder.parent} --prompts 2 --bisect --quiet")
    assert done.returncode == 3
    assert " layers.17.self_attn.o_proj (and " in done.stderr
    assert done.stderr.count("\n") == 1
