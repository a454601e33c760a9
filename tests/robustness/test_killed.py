"""A run that is interrupted anywhere leaves nothing half done, and the same command finishes what it began."""

from __future__ import annotations

import shutil
from collections import Counter
from itertools import count
from pathlib import Path

import pytest
from robustness.commands import COMMON, assert_whole, tree
from robustness.kills import KINDS, Campaign, write_inputs
from support.processes import Tool


@pytest.mark.release
def test_interruptions_change_nothing_in_the_end(tool: Tool, tmp_path: Path) -> None:
    write_inputs(tmp_path)
    campaign, kills = Campaign(tool, tmp_path), Counter[str]()
    for seed, kind in enumerate((*KINDS, *KINDS, "kill", "kill")):
        number, _, wrong = campaign.episode("two tasks", seed, kind, 6)
        assert wrong == "", (seed, kind)
        kills[kind] += number
    assert kills.keys() == set(KINDS)
    assert kills.total() > 10


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.full)])
def test_a_kill_before_any_change_while_the_router_is_replaced(tool: Tool, work: Path, stride: int) -> None:
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
    assert number > 10  # each change, or each seventh, was once the first that was not made
