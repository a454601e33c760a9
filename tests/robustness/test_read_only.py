"""A file system that cannot be written to: exit code 6 and one line; what only reads works."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any

import pytest
from robustness.commands import ALL, tree
from support.exports import Run
from support.processes import Tool

READ_ONLY = "read-only"
PLAN = ("--calibration", "out/calibration/a")
WRITING = (
    ALL,
    tuple("out/deep/new" if word == "out" else word for word in ALL),
    ("calibrate", "m", "--task", "a=a.jsonl", "--out", "out"),
    ("plan", "m", *PLAN, "--ratio", "0.2", "--out", "out/plan.json"),
    ("prune", "m", "--plan", "out/a-0.2/plan.json", *PLAN, "--out", "out/pruned"),
    ("convert", "m", "--out", "out/onnx"),
    ("validate", "out/a-0.2", "--check", "integrity", "--out", "out/a.json"),
)
READING = (
    ("inspect", "out"),
    (*ALL, "--dry-run"),
    ("validate", "out/a-0.2", "--prompts", "1", "--decode-steps", "1"),
    ("route", "out", "the cat sat", "--ratio", "0.2", "--generate", "2"),
    ("evaluate", "out/a-0.2", "--dense", "m", "--limit", "2"),
)


@pytest.fixture
def sealed(tool: Tool, done: Path) -> Path:
    """A finished export on a read-only file system, as the tool sees it."""
    tool.shell("mount", "--bind", done, done)
    tool.shell("mount", "-o", "remount,bind,ro", done)
    return done


@pytest.mark.needs("mount")
def test_what_writes_says_so_and_what_reads_works(tool: Tool, sealed: Path) -> None:
    before = tree(sealed)
    for arguments in WRITING:
        tool(sealed.parent, *arguments, "--quiet").refused(6, READ_ONLY, "out")
    for arguments in READING:
        outcome = tool(sealed.parent, *arguments, "--quiet")
        assert (outcome.code, outcome.err) == (0, ""), arguments
    assert tree(sealed) == before


def test_a_folder_that_takes_no_file(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where no mount can be had: the first thing that is made in the folder cannot be."""
    before = tree(work)
    for number, reason in (
        (errno.EROFS, READ_ONLY),
        (errno.EACCES, "permission denied"),
        (errno.EPERM, "not permitted"),
        (errno.EDQUOT, "quota"),
    ):

        def refuse(*args: Any, dir: Any = None, number: int = number, **kwargs: Any) -> str:
            raise OSError(number, "no", f"{dir}/x")

        monkeypatch.setattr(tempfile, "mkdtemp", refuse)
        for arguments in (ALL, ("convert", "m", "--out", "out", "--quiet")):
            run(*arguments).refused(6, reason, "/x")
            assert tree(work) == before
