"""`export --cluster`: the files of one machine, whatever happens to the workers; errors as on one machine."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.editing import edit_weights
from support.exports import HELD_OUT_OPTION, Outcome, run_here, tree
from support.processes import Tool

EXPORT = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--threads", "1", "--out", "out", *HELD_OUT_OPTION)
ARGUMENTS = (*EXPORT, "--set", "decode_steps=2", "--no-quality", "--no-speed")
#: Runs the command; a worker that reports the second layer of one of `STEPS` does `FATE`, once for each of them.
DISTURBED = """
import os, sys
os.sched_getaffinity = lambda process: {0, 1}  # as many workers
from seap_export.cli.main import main
from seap_export.pipeline.cluster import run

make_order = run.make_order

def disturbed(order, events):
    import os, signal, time
    from pathlib import Path
    make, seen = type(order.step).make, []
    mark = Path(order.folder).parent / "disturbed" / order.step.name
    def second(advance, layer):
        advance(layer)
        seen.append(layer)
        if order.step.name in STEPS and len(seen) == 2 and not mark.exists():
            mark.mkdir(parents=True)
            FATE
    def fatal(self, work, path, advance):
        make(self, work, path, lambda layer: second(advance, layer))
    type(order.step).make = fatal
    try:
        return make_order(order, events)
    finally:
        type(order.step).make = make

run.make_order = disturbed
main(sys.argv[1:])
"""

pytestmark = [
    pytest.mark.needs("ray"),
    pytest.mark.skipif(sys.platform == "win32", reason="Ray's local cluster is tested on Linux alone"),
]


def disturbed(steps: tuple[str, ...], fate: str) -> str:
    return DISTURBED.replace("STEPS", repr(steps)).replace("FATE", fate)


@pytest.fixture(scope="module")
def expected(place: Path, done_in: Callable[..., Outcome]) -> dict[str, bytes]:
    """The files of an undisturbed export on one machine."""
    done_in(place, *ARGUMENTS, "--task", "b=b.jsonl", "--quiet")
    return tree(place / "out")


@pytest.mark.release
def test_interrupted_and_with_lost_workers_it_ends_as_on_one_machine(
    tool: Tool, work: Path, expected: dict[str, bytes]
) -> None:
    out, marks = work / "out", work / "disturbed"
    arguments = (*ARGUMENTS, "--task", "b=b.jsonl", "--cluster", "local")
    calibrations = ("calibration/a", "calibration/b")  # both, so that nothing after them is made
    run = tool.start(work, *arguments, "--quiet", program=disturbed(calibrations, "time.sleep(600)"))
    wait_for(lambda: all((marks / step).exists() for step in calibrations))
    os.kill(run.process, signal.SIGINT)
    run.wait(120).refused(130)
    assert list(out.glob(".seap-export-unfinished-*/b/*"))
    assert not list(out.glob(".seap-export-tmp-*"))

    steps = ("ranking/a", "a-0.2/hf")
    program = disturbed(steps, "os.kill(os.getpid(), signal.SIGKILL)")
    outcome = tool(work, *arguments, "--json", program=program, timeout=240)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("{")  # Ray would print there that a worker died
    assert all((marks / step).exists() for step in steps)
    assert outcome.err.count("lost the worker on ") == len(steps)
    for line in ("calibrating b, on ", "ranking a, on ", "b-0.2: shrinking: done in "):
        assert line in outcome.err
    assert '"calibration/b"' in (out / "performance.json").read_text("utf-8")
    assert tree(out) == expected

    again = run_here(*arguments)
    assert (again.code, tree(out)) == (0, expected)
    assert "calibration of a: reused" in again.err
    assert ", on " not in again.err  # no cluster was needed


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.release
def test_an_error_of_a_worker_is_one_line(tool: Tool, work: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    edit_weights(work / "m", lambda tensors: tensors[name].mul_(float("nan")))
    outcome = tool(work, *ARGUMENTS, "--cluster", "local", "--quiet", timeout=240)
    outcome.refused(8, name, "NaN")
    assert not (work / "out").exists()


@pytest.mark.parametrize(
    ("options", "code", "keywords"),
    [
        (["--cluster", "somewhere"], 2, ["somewhere", "ray://"]),
        (["--cluster", "ray://127.0.0.1:1"], 6, ["ray://127.0.0.1:1", "nothing answers"]),
        (["--cluster", "local", "--device", "cuda:0"], 2, ["cuda:0", "Ray chooses"]),
    ],
)
def test_what_cannot_be_a_cluster_is_refused(work: Path, options: list[str], code: int, keywords: list[str]) -> None:
    run_here(*ARGUMENTS, *options, "--quiet").refused(code, *keywords)
    assert not (work / "out").exists()
