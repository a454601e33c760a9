"""A micro model and the GGUF file that was written from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from converters.gguf import GgufFormat
from seap_export.families import ModelSpec, model_spec

__all__ = ["Written"]


@dataclass(frozen=True)
class Written:
    """A model folder, and the folder with the file that was written from it."""

    model: Path
    folder: Path
    own: GgufFormat

    @property
    def spec(self) -> ModelSpec:
        return model_spec(json.loads((self.model / "config.json").read_text("utf-8")))

    @property
    def file(self) -> Path:
        return self.folder / "model.gguf"

    def complaints(self) -> list[str]:
        found = list(self.own.damages(self.model, self.folder))
        return found or list(self.own.differences(self.model, self.folder))
