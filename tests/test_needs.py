"""A missing tool is a skip with its reason, and an error where it is required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.needs("no-such-program")
def test_with_what_is_missing():
    raise AssertionError("it was run")

@pytest.mark.needs("present")
def test_with_what_is_there():
    pass
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs the two tests, of which one needs a program that is there."""
    (folder / "test_it.py").write_text(TESTS)
    (folder / "present").write_text("#!/bin/sh\n")
    (folder / "present").chmod(0o755)
    here = Path(__file__).parent
    paths = f"{here.parent}{os.pathsep}{here}"  # in this order: tests has folders of the packages' names
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": paths}
    plugin = ["-p", "support.needs", "-c", os.devnull, "--rootdir", str(folder), "-rs"]
    command = [sys.executable, "-m", "pytest", "--noconftest", *plugin, *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--require", "present"], 0, "1 passed, 1 skipped"),
        (["--require", "present,no-such-program"], 4, "no-such-program is missing"),
        (["--needing", "present"], 0, "1 passed, 1 deselected"),
    ],
)
def test_what_is_missing_is_skipped_or_an_error(tmp_path: Path, options: list[str], code: int, says: str) -> None:
    done = run(tmp_path, *options)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stdout + done.stderr
