"""A file system that cannot be written to: exit code 6 and one line; what only reads works."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from robustness.commands import ALL
from support.exports import Outcome
from support.processes import Tool

TreeOf = Callable[[Path], Any]
READ_ONLY = "read-only"
PLAN = ("--calibration", "out/calibration/a")
WRITING = {
    "export into a finished folder": ALL,
    "export into a folder to be made": tuple("out/deep/new" if word == "out" else word for word in ALL),
    "calibrate": ("calibrate", "m", "--task", "a=a.jsonl", "--out", "out"),
    "plan": ("plan", "m", *PLAN, "--ratio", "0.2", "--out", "out/plan.json"),
    "prune": ("prune", "m", "--plan", "out/a-0.2/plan.json", *PLAN, "--out", "out/pruned"),
    "convert": ("convert", "m", "--out", "out/onnx"),
    "validate": ("validate", "out/a-0.2", "--check", "integrity", "--out", "out/a.json"),
}
READING = {
    "inspect": ("inspect", "out"),
    "dry run": (*ALL, "--dry-run"),
    "validate": ("validate", "out/a-0.2", "--prompts", "1", "--decode-steps", "1"),
    "route": ("route", "out", "the cat sat", "--ratio", "0.2", "--generate", "2"),
    "evaluate": ("evaluate", "out/a-0.2", "--dense", "m", "--limit", "2"),
}


@pytest.fixture
def sealed(tool: Tool, done: Path) -> Path:
    """A finished export on a read-only file system, as the tool sees it."""
    tool.shell("mount", "--bind", done, done)
    tool.shell("mount", "-o", "remount,bind,ro", done)
    return done


@pytest.mark.needs("mount")
def test_what_writes_says_so(tool: Tool, sealed: Path, tree: TreeOf) -> None:
    before = tree(sealed)
    for name, arguments in WRITING.items():
        assert tool(sealed.parent, *arguments, "--quiet").refused(6, READ_ONLY, "out"), name
    assert tree(sealed) == before


@pytest.mark.needs("mount")
def test_what_reads_works(tool: Tool, sealed: Path, tree: TreeOf) -> None:
    before = tree(sealed)
    for name, arguments in READING.items():
        outcome = tool(sealed.parent, *arguments, "--quiet")
        assert (outcome.code, outcome.err) == (0, ""), name
    assert tree(sealed) == before


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EROFS, READ_ONLY),
        (errno.EACCES, "permission denied"),
        (errno.EPERM, "not permitted"),
        (errno.EDQUOT, "quota"),
    ],
    ids=["read-only", "no permission", "not permitted", "quota"],
)
def test_a_folder_that_takes_no_file(
    run: Callable[..., Outcome],
    work: Path,
    tree: TreeOf,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    reason: str,
) -> None:
    """The same where no mount can be had: the first thing that is made in the folder cannot be."""

    def refuse(*args: Any, dir: Any = None, **kwargs: Any) -> str:
        raise OSError(number, "no", f"{dir}/x")

    before = tree(work)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    for arguments in (ALL, ("convert", "m", "--out", "out", "--quiet")):
        run(*arguments).refused(6, reason, "/x")
        assert tree(work) == before
