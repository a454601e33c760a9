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


@pytest.mark.parametrize(
    ("require", "code", "says"),
    [
        ("", 0, "1 passed, 1 skipped"),
        ("present", 0, "1 passed, 1 skipped"),
        ("present,no-such-program", 4, "no-such-program is missing"),
    ],
)
def test_what_is_missing_is_skipped_or_an_error(tmp_path: Path, require: str, code: int, says: str) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "present").write_text("#!/bin/sh\n")
    (tmp_path / "present").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parent)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--noconftest",
        "-p",
        "needs",
        "-c",
        os.devnull,
        "--rootdir",
        str(tmp_path),
        "-rs",
    ]
    done = subprocess.run(
        [*command, "--require", require], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stdout + done.stderr
    assert code or "no-such-program is missing" in done.stdout
