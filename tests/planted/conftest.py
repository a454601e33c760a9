"""Good artifacts, made once, and copies of them to tamper with."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from planted.artifacts import make
from planted.editing import Artifact
from support.oracles.references import reuse_references

Good = Callable[[str], Artifact]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    """`good("tied")`: an artifact that passes; not to be changed."""

    def export(name: str) -> Artifact:
        artifact = make(name, tmp_path_factory.mktemp(name))
        gc.freeze()  # validation collects garbage often, and would look through all that was imported each time
        return artifact

    return cache(export)


@pytest.fixture
def copied(good: Good, tmp_path: Path) -> Good:
    """`copied("tied")`: the same to tamper with."""

    def copy(name: str) -> Artifact:
        original = good(name)
        return Artifact(Path(shutil.copytree(original.out, tmp_path / "out")), original.name)

    return copy


@pytest.fixture(autouse=True)
def _references_of_what_is_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most faults are planted in ONNX files, and leave the model as it is that they are compared with."""
    reuse_references(monkeypatch)


@pytest.fixture(autouse=True)
def _no_job_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of planted faults are no news for the summary of a CI job."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
