"""Micro models as GGUF files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_written import Written
from micro import write_micro_model
from micro_vocabulary import write_byte_level

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
def write(tmp_path: Path, model: Callable[..., Path]) -> Callable[..., Written]:
    """Writes a micro model, and its file."""

    def make(precision: str = "f32", **values: Any) -> Written:
        made = Written(model(**values), tmp_path / "gguf", GgufFormat(precision))
        made.folder.mkdir()
        made.own.write(made.model, made.folder, lambda layer: None)
        return made

    return make
