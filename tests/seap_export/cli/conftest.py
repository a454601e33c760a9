"""The command line, run in this process on a micro model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.exports import run_here
from support.oracles.references import reuse_references


@pytest.fixture(autouse=True)
def _references_of_equal_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests export the same micro model."""
    reuse_references(monkeypatch)


@pytest.fixture(scope="session")
def pristine(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed export of tasks a and b at ratios 0.2 and 0.4; not to be changed."""
    out = tmp_path_factory.mktemp("pristine") / "out"
    corpora = ["--task", f"a={inputs / 'a.jsonl'}", "--task", f"b={inputs / 'b.jsonl'}"]
    arguments = ["export", str(inputs / "m"), *corpora, "--ratio", "0.2", "--ratio", "0.4", "--out", str(out)]
    outcome = run_here(*arguments)
    assert outcome.code == 0, outcome.err
    return out


@pytest.fixture
def done(pristine: Path, work: Path) -> Path:
    """A copy of `pristine` at ./out."""
    return Path(shutil.copytree(pristine, work / "out"))
