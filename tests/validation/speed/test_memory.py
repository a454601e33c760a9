"""Memory is that of a process which loads nothing that the engine does not need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seap_export.errors import ArtifactError
from seap_export.pipeline.convert import convert_folder
from validation.speed.measure import Cell
from validation.speed.memory import peak_memory


def test_the_process_of_onnxruntime_knows_no_torch() -> None:
    code = "import sys, validation.speed.memory as m, validation.speed.engines; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_longer_prompt_takes_more(micro_hf: Callable[[str], Path], tmp_path: Path) -> None:
    convert_folder(micro_hf("Llama"), tmp_path)
    small, large = (peak_memory("onnxruntime", tmp_path, 64, "cpu", 1, Cell(batch, 32)) for batch in (1, 512))
    assert 20e6 < small < large


def test_what_does_not_load_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"the process that measures its memory failed: .*no such file"):
        peak_memory("onnxruntime", tmp_path, 64, "cpu", 1, Cell(1, 8))
