"""An export that nothing disturbed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from robustness.commands import ALL
from support.processes import Tool


@pytest.fixture(scope="session")
def undisturbed(tool: Tool, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of `ALL` that nothing disturbed; not to be changed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "work"
    shutil.copytree(inputs, folder)
    outcome = tool(folder, *ALL)
    assert (outcome.code, outcome.err) == (0, "")
    return folder / "out"


@pytest.fixture
def done(undisturbed: Path, work: Path) -> Path:
    """A copy of `undisturbed` at ./out."""
    return Path(shutil.copytree(undisturbed, work / "out"))
