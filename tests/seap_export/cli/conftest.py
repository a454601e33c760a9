"""The command line, run in this process on a micro model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from support.exports import Outcome, Run, run_here
from support.oracles.references import reuse_references


@pytest.fixture(autouse=True)
def _references_of_equal_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests export the same micro model."""
    reuse_references(monkeypatch)


@pytest.fixture(scope="session")
def done_in() -> Callable[..., Outcome]:
    """`done_in(folder, "export", ...)`: what a run that must succeed has said."""

    def done_in(folder: Path, *arguments: object) -> Outcome:
        with chdir(folder):
            outcome = run_here(*arguments)
        assert outcome.code == 0, outcome.err
        return outcome

    return done_in


@pytest.fixture
def result(run: Run) -> Callable[..., Any]:
    """`result("export", ...)`: what a run that must succeed has printed with --json."""

    def result(*arguments: object) -> Any:
        outcome = run(*arguments, "--json")
        assert outcome.code == 0, outcome.err
        return json.loads(outcome.out)

    return result


@pytest.fixture(scope="module")
def place(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with its own copy of the inputs, where a module makes something once."""
    return Path(shutil.copytree(inputs, tmp_path_factory.mktemp("place") / "work"))


@pytest.fixture
def home(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a copy of the one that the module's fixture `once` has made."""
    home = Path(shutil.copytree(once, tmp_path / "home"))
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def bare(home: Path) -> Path:
    """The same without its export."""
    shutil.rmtree(home / "out")
    return home


@pytest.fixture(scope="session")
def exported(
    inputs: Path, tmp_path_factory: pytest.TempPathFactory, done_in: Callable[..., Outcome]
) -> tuple[Path, Outcome]:
    """An undisturbed export of tasks a and b at ratios 0.2 and 0.4, not to be changed, and what was said."""
    out = tmp_path_factory.mktemp("pristine") / "out"
    corpora = ("--task", "a=a.jsonl", "--task", "b=b.jsonl")
    return out, done_in(inputs, "export", "m", *corpora, "--ratio", "0.2", "--ratio", "0.4", "--out", out)


@pytest.fixture(scope="session")
def pristine(exported: tuple[Path, Outcome]) -> Path:
    return exported[0]


@pytest.fixture
def done(pristine: Path, work: Path) -> Path:
    """A copy of `pristine` at ./out."""
    return Path(shutil.copytree(pristine, work / "out"))
