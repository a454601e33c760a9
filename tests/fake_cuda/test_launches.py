"""The table of launches has a row for each precision and each graph that is given."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.models import write_micro_model
from support.product import OnnxForm, Precision, genai_config
from support.variations import VARIATIONS

from converters.onnx import write_onnx
from seap_export.common.json_file import read_json
from seap_export.model.families import model_spec

pytestmark = [pytest.mark.needs("fake-cuda"), pytest.mark.full]


def test_the_table(tmp_path: Path) -> None:
    model = write_micro_model(tmp_path / "m", **{**VARIATIONS["llama-gqa"], "intermediate_size": 96})
    folder = tmp_path / "ready"
    folder.mkdir()
    form = OnnxForm(Precision("fp16"), "fused", "last", "cuda")
    write_onnx(model, folder, form)
    config = read_json(model / "config.json")
    (folder / "genai_config.json").write_text(json.dumps(genai_config(model_spec(config), config, None, form)))
    command = [sys.executable, str(Path(__file__).parent / "launches.py"), f"micro={model}", "--graph", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    header, _, *rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()]
    assert header[1:3] == ["kernel launches", "library calls"]
    assert [row[0] for row in rows] == ["micro, fp16", "micro, bf16", "micro, int8", "micro, int4", "ready"]
    assert rows[0][1:] == rows[-1][1:]
    assert all(int(row[1]) > 0 and row[3] == "0" for row in rows)
