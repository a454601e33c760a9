"""An export by the Python API of a task in memory, on a micro model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.exports import FEW, TEXTS
from support.oracles.references import reuse_references

from seap_export import export


@pytest.fixture(autouse=True)
def _references_of_equal_models(monkeypatch: pytest.MonkeyPatch) -> None:
    reuse_references(monkeypatch)


@pytest.fixture(scope="session")
def pristine(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Task a at ratio 0.2, with quality and speed; not to be changed."""
    out = tmp_path_factory.mktemp("pristine") / "out"
    result = export(inputs / "m", {"a": TEXTS["a"]}, ratio=0.2, out=out, **{**FEW, "quality": True, "speed": True})
    assert result.passed, result.failure
    return out


@pytest.fixture
def done(pristine: Path, tmp_path: Path) -> Path:
    """A copy of `pristine`."""
    return Path(shutil.copytree(pristine, tmp_path / "out"))
