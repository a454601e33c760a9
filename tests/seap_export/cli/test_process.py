"""The command as a process of its own: signals, pipes, and what libraries print."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.exports import HELD_OUT_OPTION, Outcome, tree
from support.processes import MAIN, Tool

ROOT = Path(__file__).parents[3]
#: Stops the process when the first layer is calibrated.
SIGNAL_WHILE_CALIBRATING = """
import os, signal
from seap_export.cli.console import Console
from contextlib import contextmanager
@contextmanager
def step(self, label, total=None, unit="layers", *, name=None):
    yield lambda done: os.kill(os.getpid(), {number})
Console.step = step
"""
ONE = (
    "export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--set", "decode_steps=2", "--out", "out",
    *HELD_OUT_OPTION, "--no-quality", "--no-speed",
)  # fmt: skip
#: As an export in the process of the tests, which sees one core.
ALIKE = (*ONE, "--threads", "1")


def start(work: Path, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """A process that begins with nothing."""
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def test_libraries_print_nothing(work: Path, pristine: Path) -> None:
    process = start(work, *ALIKE, "--quiet")
    out, err = process.communicate()
    assert process.returncode == 0
    assert out == ""
    assert err == ""
    assert tree(work / "out" / "a-0.2") == tree(pristine / "a-0.2")


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [(signal.SIGINT, 130, "Error: interrupted; run the same command again to continue\n"), (signal.SIGTERM, 143, "")],
)
def test_a_signal_leaves_nothing_partial(tool: Tool, work: Path, number: int, code: int, message: str) -> None:
    outcome = tool(work, *ONE, "--quiet", before=SIGNAL_WHILE_CALIBRATING.format(number=int(number)))
    assert (outcome.code, outcome.err) == (code, message)
    hidden = [path.name for path in (work / "out").iterdir()]
    assert all(name.startswith(".seap-export-unfinished-") for name in hidden)  # for the next run to go on with
    assert hidden


def test_nobody_reads_the_output(work: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start(work, "inspect", "m", stdout=writing)
    os.close(writing)
    _, err = process.communicate()
    assert (process.returncode, err) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_the_disk_that_takes_the_output_is_full(work: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = start(work, "recipes", stdout=full.fileno())
        _, err = process.communicate()
    Outcome(process.returncode, "", err).refused(6, "disk is full")


def test_a_name_that_is_not_utf8_is_refused(work: Path) -> None:
    """Neither JSON nor the libraries that open weights and tokenizers could hold it."""
    process = start(work, "inspect", "m\udcff", "--json")
    out, err = process.communicate()
    message = Outcome(process.returncode, out, err).refused(2, "m\\udcff", "not UTF-8")
    assert json.loads(out)["error"]["message"] == message.replace("\\udcff", "\udcff")


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings libgomp on Linux")
@pytest.mark.parametrize("given", [None, "7"])
def test_threads_of_torch_do_not_spin_for_long(given: str | None) -> None:
    """It is said when libgomp is loaded, which is too late to be told so."""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "VERBOSE"}
    environment |= {} if given is None else {"GOMP_SPINCOUNT": given}
    loads = [sys.executable, "-c", "import seap_export.cli, torch"]
    done = subprocess.run(loads, env=environment, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{given or 1000}'" in done.stderr
