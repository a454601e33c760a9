"""An export that is killed in the middle of a step goes on there, and ends with the same bytes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from support.exports import HELD_OUT_OPTION, run_here
from support.processes import Tool

from seap_export.pipeline.folder import outputs

ARGUMENTS = (
    "export",
    "m",
    "--task",
    "a=a.jsonl",
    "--ratio",
    "0.2",
    "--out",
    "out",
    *HELD_OUT_OPTION,
    "--no-speed",
    "-q",
)
#: Runs the command and kills itself when a step reports its second layer.
KILLED = """
import os, signal, sys
from seap_export.cli.main import main
from seap_export.pipeline.steps import run

make_step = run.make_step

def killed(step, work, workspace):
    make, seen = type(step).make, []
    def fatal(layer):
        seen.append(layer)
        if step.name == sys.argv[1] and len(seen) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    type(step).make = lambda self, work, place, advance: make(self, work, place, fatal)
    try:
        make_step(step, work, workspace)
    finally:
        type(step).make = make

run.make_step = killed
main(sys.argv[2:])
"""


def tree(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "performance.json"}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_export_goes_on_in_the_middle_of_each_step(tool: Tool, work: Path) -> None:
    (work / "tried.toml").write_text("trials = 4\nmin_tokens = 0\n", "utf-8")  # so that it is distilled, too
    arguments = (*ARGUMENTS, "--recipe", "tried.toml")
    assert run_here(*arguments).code == 0
    expected = tree(work / "out")
    (work / "out").rename(work / "whole")
    for step in ("calibration/a", "ranking/a", "a-0.2/plan.json", "a-0.2/hf"):
        killed = tool(work, step, *arguments, program=KILLED)
        assert killed.code == -signal.SIGKILL, killed.err
        assert not (work / "out" / step).exists()
        (left,) = (work / "out").glob(".seap-export-unfinished-*")
        assert [path for path in left.rglob("*") if path.is_file()]
    assert run_here(*arguments).code == 0
    assert tree(work / "out") == expected


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_it_does_not_go_on_while_a_worker_still_writes(
    tool: Tool, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tool(work, "a-0.2/hf", *ARGUMENTS, program=KILLED).code == -signal.SIGKILL
    (left,) = (work / "out").glob(".seap-export-unfinished-*")
    before = tree(left)
    monkeypatch.setattr(outputs, "_PATIENCE", 0.1)
    with outputs.alone(left / "hf"):
        run_here(*ARGUMENTS).refused(6, str(left.name), "still writes", "run the same command again")
        assert tree(left) == before
    assert run_here(*ARGUMENTS).code == 0
