"""Micro models in the format web: dense, or with layers of shapes of their own and biases from compensation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from support.formats.web import WebModel
from support.models import write_source

from converters.web import WebFormat


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, bool], WebModel]:
    """Writes each model once; not to be changed."""

    @cache
    def make(variation: str, precision: str, pruned: bool) -> WebModel:
        folder = tmp_path_factory.mktemp("web")
        return WebModel.of(WebFormat(precision), write_source(folder / "hf", variation, pruned=pruned))

    return make


@pytest.fixture
def webbed(made: Callable[[str, str, bool], WebModel], tmp_path: Path) -> Callable[..., WebModel]:
    """`webbed("qwen3", "q4", pruned=True)`: a copy to tamper with."""

    def copy(variation: str = "llama-biases", precision: str = "fp32", *, pruned: bool = True) -> WebModel:
        model = made(variation, precision, pruned)
        source, folder = (
            Path(shutil.copytree(original, tmp_path / original.name)) for original in (model.source, model.folder)
        )
        return replace(model, source=source, folder=folder)

    return copy
