"""A pruned micro model, and what is written from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.plans import write_pruned_micro_model

from converters.executorch.format import ExecutorchFormat


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned model with norms of heads, biases and an LM head; not to be changed."""
    return write_pruned_micro_model(tmp_path_factory.mktemp("qwen3") / "hf", "qwen3-biases")


@pytest.fixture(scope="session")
def made(qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`made("int8")`: the folder written from it, once."""
    folders: dict[str, Path] = {}

    def make(precision: str) -> Path:
        if precision not in folders:
            folders[precision] = tmp_path_factory.mktemp(precision)
            ExecutorchFormat(precision).write(qwen3, folders[precision], lambda layer: None)
        return folders[precision]

    return make


@pytest.fixture
def copied(made: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of it to damage."""
    return lambda precision: Path(shutil.copytree(made(precision), tmp_path / "executorch"))
