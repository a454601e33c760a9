"""The gate on a variant of SmolLM2: one wrong weight among millions."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.editing import edit_tensor, list_again

pytestmark = pytest.mark.full


def test_one_wrong_weight_is_stopped_and_followed_to_its_layer(
    demo: Path, tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for part in ("dates-0.5", "calibration", "rounding/dates-0.5"):
        shutil.copytree(demo / part, tmp_path / part)
    folder = tmp_path / "dates-0.5" / "onnx"
    name = "model.layers.17.self_attn.o_proj.weight.packed"
    # from the lowest level to the highest one
    edit_tensor(folder / "model.onnx", name, lambda levels: levels.put(levels.argmin(), 255))
    list_again(folder.parent)
    few = ("--prompts", "1", "--long-tokens", "48", "--decode-steps", "2")
    done = run("validate", folder.parent, *few, "--bisect", "--quiet", code=3)
    assert " layers.17.self_attn.o_proj (and " in done.stderr
    assert done.stderr.count("\n") == 1
