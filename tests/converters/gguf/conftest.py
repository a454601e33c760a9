"""Micro models as GGUF files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.formats.gguf import GgufModel
from support.models import write_micro_model
from support.tokenizers import write_byte_level

from converters.gguf import GgufFormat


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a micro model with a byte-level tokenizer."""

    def make(**values: Any) -> Path:
        folder = write_micro_model(tmp_path / "hf", **values)
        write_byte_level(folder)
        return folder

    return make


@pytest.fixture
def write(model: Callable[..., Path]) -> Callable[..., GgufModel]:
    """Writes a micro model, and its file."""
    return lambda precision="f32", **values: GgufModel.of(GgufFormat(precision), model(**values))
