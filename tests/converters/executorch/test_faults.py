"""Damaged programs, and those of other models; `tests/planted/formats` plants all other faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.formats.written import damages_by_byte
from support.models import write_micro_model

from converters.executorch.format import ExecutorchFormat
from converters.executorch.stored_program import PROGRAM

pytestmark = pytest.mark.needs("executorch")
Copied = Callable[[str], Path]


def test_random_bytes_are_refused_in_one_line(qwen3: Path, copied: Copied) -> None:
    """Wherever a byte of the header or of the flatbuffer is another one, nothing else is raised."""
    folder, chance = copied("int8"), np.random.default_rng(0)
    positions = [*chance.integers(0, 64, 8), *chance.integers(64, 8000, 16)]
    for lines in damages_by_byte(ExecutorchFormat("int8"), qwen3, folder / PROGRAM, positions):
        assert lines
        assert all("\n" not in line for line in lines)


def test_a_program_of_another_model_is_damage(made: Callable[[str], Path], tmp_path: Path) -> None:
    model = write_micro_model(tmp_path / "hf", model_type="qwen3")
    assert any("another program" in line for line in ExecutorchFormat("int8").damages(model, made("int8")))
