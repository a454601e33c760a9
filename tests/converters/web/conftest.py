"""Micro models in the format web: dense, or with layers of shapes of their own and biases from compensation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.models import write_source
from support.product import read_spec

from converters.web import WebFormat
from converters.web.precisions import file_name
from seap_export.families import ModelSpec


@dataclass(frozen=True)
class WebModel:
    """A model folder, and what the format has made of it."""

    format: WebFormat
    source: Path
    folder: Path
    layers: tuple[int, ...]

    @property
    def spec(self) -> ModelSpec:
        return read_spec(self.source)

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
        source = write_source(tmp_path / "hf", variation, pruned=pruned)
        folder = tmp_path / "web"
        folder.mkdir()
        layers: list[int] = []
        made = WebFormat(precision)
        made.write(source, folder, layers.append)
        return WebModel(made, source, folder, tuple(layers))

    return make
