"""Micro models in the format web: dense, or with layers of shapes of their own and biases from compensation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.formats.web import WebModel
from support.models import write_source

from converters.web import WebFormat


@pytest.fixture
def webbed(tmp_path: Path) -> Callable[..., WebModel]:
    """`webbed("qwen3", "q4", pruned=True)`."""

    def make(variation: str = "llama-biases", precision: str = "fp32", *, pruned: bool = True) -> WebModel:
        return WebModel.of(WebFormat(precision), write_source(tmp_path / "hf", variation, pruned=pruned))

    return make
