"""Micro models in the format web."""

from __future__ import annotations

from pathlib import Path

from converters.web.precisions import file_name
from support.formats.written import WrittenModel


class WebModel(WrittenModel):
    """A model folder, and what the format has made of it."""

    @property
    def graph(self) -> Path:
        return self.folder / "onnx" / file_name(self.format.precision)

    @property
    def data(self) -> Path:
        return self.graph.with_name(f"{self.graph.name}_data")
