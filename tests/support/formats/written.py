"""What formats write from micro models."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors.torch import load_file, save_file

from converters.comparison import compare
from converters.format import Format
from seap_export.errors import ArtifactError
from seap_export.model.families import ModelSpec
from seap_export.model.sources.config import read_spec


@dataclass(frozen=True)
class WrittenModel:
    """A model folder, the folder that a format has made of it, and the layers that were reported."""

    format: Any
    source: Path
    folder: Path
    layers: tuple[int, ...]

    @classmethod
    def of(cls, format: Format, source: Path) -> Self:
        """Writes a model folder to one of the format's name beside it."""
        target = source.with_name(format.name)
        target.mkdir()
        layers: list[int] = []
        format.write(source, target, layers.append)
        return cls(format, source, target, tuple(layers))

    def complaints(self) -> list[str]:
        """What a comparison with the model finds."""
        return complaints(self.format, self.source, self.folder)

    @property
    def spec(self) -> ModelSpec:
        return read_spec(self.source)

    def with_stored_weights(self, target: Path) -> Path:
        """A copy of the model folder whose weights are those that were written."""
        shutil.copytree(self.source, target)
        names = list(load_file(target / "model.safetensors"))
        weights = self.format.weights(self.folder, self.spec)
        tensors = {name: weights.read([name])[name].contiguous() for name in names}
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        return target


def complaints(format: Format, source: Path, folder: Path) -> list[str]:
    """What a comparison of a written folder with its model finds, in lines."""
    try:
        comparison = compare(format, source, folder)
    except ArtifactError as error:
        return [str(error)]
    return [*comparison.form, *comparison.weights]


def greedy_answer(runner: Any, ids: Sequence[int]) -> list[int]:
    """Up to 8 tokens that a runner of one row gives after a prompt, without the end token."""
    logits, answer = runner.prefill(np.array([ids]), [len(ids)])[0, -1], list[int]()
    while len(answer) < 8 and logits.argmax() != 2:
        answer.append(int(logits.argmax()))
        logits = runner.step(answer[-1:])[0]
    return answer
