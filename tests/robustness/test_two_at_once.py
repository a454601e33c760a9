"""Two runs into one folder at the same time: one makes it, the other says why it does not."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from robustness.commands import ALL, COMMON, tree
from support.processes import Tool

CALIBRATE = ("calibrate", "m", "--task", "a=a.jsonl", "--task", "b=b.jsonl", "--out", "out", "-q", "--held-out", "16")
TAKEN = ("another run is writing to out",)


def test_the_second_is_refused_and_the_first_is_not_disturbed(tool: Tool, work: Path, undisturbed: Path) -> None:
    os.mkfifo(work / "events")
    first = tool.start(work, *ALL, events=str(work / "events"))
    with (work / "events").open(encoding="utf-8") as events:
        for _ in range(60):
            assert next(events)
        os.kill(first.process, signal.SIGSTOP)  # it must not end before the others begin
        others = [
            tool(work, *ALL),
            tool(work, *ALL, "--force"),
            tool(work, *COMMON, "--ratio", "0.5"),
            tool(work, *ALL, "--set", "seed=9"),
            tool(work, *CALIBRATE),
        ]
        os.kill(first.process, signal.SIGCONT)
        for _ in events:
            pass  # a full pipe would stop it
    assert len({other.refused(2, *TAKEN) for other in others}) == 1
    outcome = first.wait()
    assert (outcome.code, outcome.err) == (0, "")
    assert tree(work / "out") == tree(undisturbed)


def test_of_several_that_start_together_one_wins(tool: Tool, work: Path, undisturbed: Path) -> None:
    """Whoever is refused may come again, or so late that everything is done."""
    num_refused = 0
    for _ in range(3):
        runs = [tool.start(work, *CALIBRATE) for _ in range(3)]
        outcomes = [run.wait() for run in runs]
        refused = [outcome.refused(2, *TAKEN) for outcome in outcomes if outcome.code]
        assert len(refused) < len(outcomes)
        num_refused += len(refused)
        assert tool(work, *CALIBRATE).code == 0
        assert tree(work / "out" / "calibration") == tree(undisturbed / "calibration")
        assert not list((work / "out").glob(".seap-export-tmp-*"))
        shutil.rmtree(work / "out")
    assert num_refused > 0
