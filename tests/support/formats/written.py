"""Fixtures of what a format writes from a pruned micro model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converters.format import Format
from support.plans import write_pruned_micro_model

__all__ = ["fixtures_of"]


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
