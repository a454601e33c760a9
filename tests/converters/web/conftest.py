"""Micro models in the format web: dense, or with layers of shapes of their own and biases from compensation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.formats.written import WrittenModel

from converters.web import WebFormat
from converters.web.precisions import file_name


class WebModel(WrittenModel):
    """A model folder, and what the format has made of it."""

    @property
    def graph(self) -> Path:
        return self.folder / "onnx" / file_name(self.format.precision)

    @property
    def data(self) -> Path:
        return self.graph.with_name(f"{self.graph.name}_data")


@pytest.fixture
def webbed(tmp_path: Path) -> Callable[..., WebModel]:
    """`webbed("qwen3", "q4", pruned=True)`."""

    def make(variation: str = "llama-biases", precision: str = "fp32", *, pruned: bool = True) -> WebModel:
        return WebModel.of(WebFormat(precision), tmp_path, variation, pruned=pruned)

    return make
