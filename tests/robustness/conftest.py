"""The command line in this process, in processes that are limited or killed, and what it must leave behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from robustness.commands import ALL
from support.processes import Tool
from support.product import read_manifest

Tree = dict[str, bytes | None]


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


@pytest.fixture
def tree() -> Callable[[Path], Tree]:
    """`tree(folder)`: the content of every file under it; None for a folder; without what waits for another run."""

    def read(folder: Path) -> Tree:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
            for path in folder.rglob("*")
            if path.name != "performance.json" and ".seap-export-unfinished-" not in str(path)
        }

    return read


@pytest.fixture
def assert_whole() -> Callable[[Path], None]:
    """`assert_whole(out)`: whatever stands at its place in an output folder is as the manifest says."""

    def check(out: Path) -> None:
        manifest = read_manifest(out)
        made = {path.relative_to(out).as_posix() for path in out.glob("*/**/*") if path.is_file()}
        assert {name for name in made if not name.startswith(".seap-export")} <= manifest.files.keys()
        for step in manifest.steps:
            assert not (out / step).exists() or manifest.damages(out, step) == []

    return check
