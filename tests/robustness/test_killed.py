"""A run that is killed anywhere leaves nothing half done, and the same command finishes what it began."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from robustness.commands import ALL, COMMON
from support.processes import Tool
from support.product import read_manifest

KILLS = 44
TreeOf = Callable[[Path], object]


def is_record(change: str) -> bool:
    """Whether manifest.json is replaced."""
    return change.startswith("os.rename ") and change.endswith("/out/manifest.json")


def steps_done(out: Path) -> int:
    return sum((out / step).exists() for step in read_manifest(out).steps)


@pytest.mark.release
def test_kills_change_nothing_in_the_end(
    tool: Tool, work: Path, undisturbed: Path, tree: TreeOf, assert_whole: Callable[[Path], None]
) -> None:
    pipe = work / "events"
    os.mkfifo(pipe)
    run = tool.start(work, *ALL, events=str(pipe))
    changes = pipe.read_text("utf-8").splitlines()
    assert run.wait().code == 0
    assert tree(work / "out") == tree(undisturbed)
    shutil.rmtree(work / "out")
    num_records, num_steps = sum(map(is_record, changes)), steps_done(undisturbed)
    most = len(changes) // 10  # before a kill: half of the kills are enough for a whole run

    chance, stages, num_halves = random.Random(0), [], 0
    records = 0  # that are made before the changes count
    while len(stages) < KILLS or (
        len(set(stages)) <= num_steps / 2 and len(stages) < 3 * KILLS
    ):  # until both are many
        number = chance.randint(1, most)
        delay = chance.choice((0.0, chance.uniform(0.001, 0.02)))
        code = tool(work, *ALL, records=records, kill_at=number, kill_after=delay).code
        assert code in (0, -signal.SIGKILL, -signal.SIGALRM)
        assert_whole(work / "out")
        if code == 0:  # it was done before its turn came
            assert tree(work / "out") == tree(undisturbed)
            shutil.rmtree(work / "out")
            records = chance.randrange(num_records)
            continue
        stages.append(steps_done(work / "out"))
        num_halves += any((work / "out").glob(".seap-export-[tu]*"))
        records = 0

    assert num_halves > KILLS / 2  # most kills interrupt something
    assert len(set(stages)) > num_steps / 2  # at all stages of the work
    outcome = tool(work, *ALL)
    assert (outcome.code, outcome.err) == (0, "")
    assert tree(work / "out") == tree(undisturbed)


@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.full)])
def test_a_kill_before_any_change_while_the_router_is_replaced(
    tool: Tool, work: Path, tree: TreeOf, assert_whole: Callable[[Path], None], stride: int
) -> None:
    """The one step that replaces another unasked: what is half replaced must not look like a user's change."""
    out, before = work / "out", work / "before"
    assert tool(work, *COMMON, "--ratio", "0.2").code == 0
    shutil.copytree(out, before)
    again = (*COMMON, "--ratio", "0.2", "--set", "threshold=0.6")
    assert tool(work, *again).code == 0
    expected = tree(out)
    assert expected != tree(before)
    for number in count(1, stride):
        shutil.rmtree(out)
        shutil.copytree(before, out)
        if tool(work, *again, kill_at=number).code == 0:
            break
        assert_whole(out)
        assert tool(work, *again).code == 0
        assert tree(out) == expected
    assert number > 10  # each change, or each third, was once the first that was not made
