"""What formats write from micro models."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from converters.format import Format
from seap_export.errors import ArtifactError
from seap_export.model.families import ModelSpec
from seap_export.model.sources.config import read_spec
from support.plans import write_pruned_micro_model


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


def assert_read_back(format: Format, model: Path, folder: Path, step: float) -> None:
    """What is read has the model's names and shapes, in float32; matrices are off by a `step` of a row at most."""
    stored = load_file(model / "model.safetensors")
    read = format.weights(folder, read_spec(model)).read(stored)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in read.items()} == {
        name: (tensor.shape, torch.float32) for name, tensor in stored.items()
    }
    for name, tensor in read.items():
        most = (1.001 * step if tensor.dim() == 2 else 0.0) * stored[name].abs().amax(-1, keepdim=True)
        assert ((tensor - stored[name]).abs() <= most).all(), name


def damages_by_byte(format: Format, model: Path, file: Path, positions: Iterable[int]) -> Iterator[list[str]]:
    """What is found where a byte of a file is another one, in turn for each position: nothing else is raised."""
    whole = file.read_bytes()
    for position in positions:
        changed = bytearray(whole)
        changed[position] ^= 0xFF
        file.write_bytes(changed)
        yield list(format.damages(model, file.parent))
        with suppress(ArtifactError):
            list(format.differences(model, file.parent))


def greedy_answer(runner: Any, ids: Sequence[int]) -> list[int]:
    """Up to 8 tokens that a runner of one row gives after a prompt, without the end token."""
    logits, answer = runner.prefill(np.array([ids]), [len(ids)])[0, -1], list[int]()
    while len(answer) < 8 and logits.argmax() != 2:
        answer.append(int(logits.argmax()))
        logits = runner.step(answer[-1:])[0]
    return answer


def fixtures_of(form: type[Format]) -> tuple[Any, Any, Any]:
    """`qwen3`, `made` and `copied` for the tests of a format, as a conftest.py is to call them."""

    @pytest.fixture(scope="session")
    def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A pruned model with norms of heads, biases and an LM head; not to be changed."""
        return write_pruned_micro_model(tmp_path_factory.mktemp("qwen3") / "hf", "qwen3-biases")

    @pytest.fixture(scope="session")
    def made(qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
        """`made("fp32")`: the folder written from it, once."""
        folders: dict[str, Path] = {}

        def make(precision: str) -> Path:
            if precision not in folders:
                folders[precision] = tmp_path_factory.mktemp(precision)
                form(precision).write(qwen3, folders[precision], lambda layer: None)
            return folders[precision]

        return make

    @pytest.fixture
    def copied(made: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
        """A copy of it to damage."""
        return lambda precision: Path(shutil.copytree(made(precision), tmp_path / form.name))

    return qwen3, made, copied
