"""Damaged bundles, and those of other models; `tests/planted/formats` plants all other faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.formats.written import damages_by_byte
from support.models import write_micro_model

from converters.litert.bundle import BUNDLE, PROGRAM, Bundle
from converters.litert.format import LitertFormat
from seap_export.errors import ArtifactError

pytestmark = pytest.mark.needs("litert")
Copied = Callable[[str], Path]


def test_a_bundle_that_ends_early_is_not_read(copied: Copied) -> None:
    path = copied("int8") / BUNDLE
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(ArtifactError, match="truncated"):
        Bundle(path.parent)


def test_random_bytes_are_refused_in_one_line(qwen3: Path, copied: Copied) -> None:
    """Wherever a byte of the header or of the flatbuffer is another one, nothing else is raised."""
    folder, chance = copied("int8"), np.random.default_rng(0)
    start = Bundle(folder).span(PROGRAM).start
    positions = [*chance.integers(8, 400, 6), *chance.integers(start, start + 400, 6)]
    for lines in damages_by_byte(LitertFormat("int8"), qwen3, folder / BUNDLE, positions):
        assert all("\n" not in line for line in lines)


def test_a_bundle_of_another_model_is_damage(made: Callable[[str], Path], tmp_path: Path) -> None:
    model = write_micro_model(tmp_path / "hf", model_type="qwen3")
    assert any(
        "another program" in line or "missing" in line for line in LitertFormat("int8").damages(model, made("int8"))
    )
