"""A process that answers, fails, dies or hangs."""

from __future__ import annotations

from pathlib import Path

import pytest

from seap_export.runtime.doctor.isolated import IsolatedResult, ask

#: Far more than a Python process takes that does nothing.
PATIENCE = 120.0


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `asked` that this process can import; to be written."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "asked.py"


def test_the_last_line_is_the_answer(module: Path) -> None:
    module.write_text('import sys\nprint("noise {")\nprint(\'{"a": "%s"}\' % sys.argv[1:])\n', "utf-8")
    assert ask("asked", ["x", "y"], PATIENCE) == IsolatedResult({"a": "['x', 'y']"})


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the process died of SIGSEGV"),
        ("import os; print('{}', flush=True); os.abort()", "the process died of SIGABRT"),
        ("raise ValueError('one\\ntwo')", "the process failed: two"),
        ("import sys; sys.exit(7)", "the process failed: exit code 7"),
        ("pass", "the process gave no answer"),
        ("print('hello')", "the process gave no answer"),
        ("print('[1]')", "the process gave no answer"),
    ],
)
def test_what_is_no_answer(module: Path, code: str, failure: str) -> None:
    module.write_text(code, "utf-8")
    assert ask("asked", [], PATIENCE) == IsolatedResult(failure=failure)


def test_a_process_that_hangs_is_killed(module: Path) -> None:
    module.write_text("import time\nwhile True: time.sleep(60)\n", "utf-8")
    assert ask("asked", [], 0.5) == IsolatedResult(failure="no answer within 0.5 seconds")
