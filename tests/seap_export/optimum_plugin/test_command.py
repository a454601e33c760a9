"""`optimum-cli export seap` is `seap-export export`: the same words, files and exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.corpora import write_corpus
from support.models import write_micro_model
from support.processes import Tool

from seap_export.cli import main

ROOT = Path(__file__).parents[3]
OPTIMUM = ("-m", "optimum.commands.optimum_cli", "export")
#: What `optimum-cli` runs.
PROGRAM = "from optimum.commands.optimum_cli import main; main()"
GOOD = ("m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--json")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_micro_model(folder / "m", model_type="llama")
    write_corpus(folder / "a.jsonl")
    return folder


def call(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process that begins with nothing."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--help",), 0),
        ((), 2),
        ((*GOOD, "--ratio", "2x"), 2),
        ((*GOOD, "--dry-run"), 0),
        (("--json", "--", "m", "--task"), 2),
    ],
    ids=str,
)
def test_every_argument_reaches_our_command(
    tool: Tool, work: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int
) -> None:
    monkeypatch.chdir(work)
    ours = CliRunner().invoke(main, ["export", *arguments], prog_name="seap-export")
    theirs = tool(work, "export", "seap", *arguments, program=PROGRAM)
    assert (theirs.code, theirs.err) == (ours.exit_code, ours.stderr)
    # click's runner wraps help at another width, and estimated times are measured anew
    assert re.sub(r"\d[\d.e-]*", "#", theirs.out).split() == re.sub(r"\d[\d.e-]*", "#", ours.stdout).split()
    assert theirs.code == code


def test_it_exports(tool: Tool, work: Path) -> None:
    outcome = tool(work, "export", "seap", *GOOD, program=PROGRAM)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["variants"]["a-0.2"]["parity"]["onnx"]["verdict"] == "passed"
    assert (work / "out" / "a-0.2" / "onnx" / "model.onnx").is_file()


def test_optimum_lists_it_and_keeps_its_own_commands(tool: Tool, work: Path) -> None:
    _, out, _ = call(work, *OPTIMUM, "--help")
    assert "seap" in out
    assert "Prune a decoder model per task" in out
    outcome = tool(work, "env", program=PROGRAM)
    assert outcome.code == 0
    assert "`optimum` version" in outcome.out


def test_it_hides_no_module_of_optimum_and_loads_nothing_heavy(work: Path) -> None:
    code = (
        "import sys, optimum.commands.register.register_seap as plugin; assert plugin.REGISTER_COMMANDS;"
        "heavy = ('torch', 'transformers', 'numpy', 'click');"
        "print([name for name in heavy if name in sys.modules]);"
        "import optimum.commands.base, optimum.exporters.tasks, optimum.version;"
        "print(getattr(optimum, '__file__', None), getattr(optimum.commands, '__file__', None))"
    )
    assert call(work, "-c", code)[:2] == (0, "[]\nNone None\n")
