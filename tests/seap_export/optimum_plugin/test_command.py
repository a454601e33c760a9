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
#: What `optimum-cli` runs.
PROGRAM = "from optimum.commands.optimum_cli import main; main()"
GOOD = ("m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--json")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_micro_model(folder / "m", model_type="llama")
    write_corpus(folder / "a.jsonl")
    return folder


def test_every_argument_reaches_our_command(tool: Tool, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    for arguments, code in (
        (("--help",), 0),
        ((), 2),
        ((*GOOD, "--ratio", "2x"), 2),
        ((*GOOD, "--dry-run"), 0),
        (("--json", "--", "m", "--task"), 2),
    ):
        ours = CliRunner().invoke(main, ["export", *arguments], prog_name="seap-export")
        theirs = tool(work, "export", "seap", *arguments, program=PROGRAM)
        assert (theirs.code, theirs.err) == (ours.exit_code, ours.stderr)
        assert theirs.code == code, arguments
        # click's runner wraps help at another width, and estimated times are measured anew
        shown = [re.sub(r"\d[\d.e-]*", "#", out).split() for out in (theirs.out, ours.stdout)]
        assert shown[0] == shown[1], arguments
    outcome = tool(work, "export", "seap", *GOOD, program=PROGRAM)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["variants"]["a-0.2"]["parity"]["onnx"]["verdict"] == "passed"
    assert (work / "out" / "a-0.2" / "onnx" / "model.onnx").is_file()


def test_it_hides_no_module_or_command_of_optimum_and_loads_nothing_heavy(tool: Tool, work: Path) -> None:
    code = (
        "import sys, optimum.commands.register.register_seap as plugin; assert plugin.REGISTER_COMMANDS;"
        "heavy = ('torch', 'transformers', 'numpy', 'click');"
        "print([name for name in heavy if name in sys.modules]);"
        "import optimum.commands.base, optimum.exporters.tasks, optimum.version;"
        "print(getattr(optimum, '__file__', None), getattr(optimum.commands, '__file__', None));"
        "sys.argv[1:] = ['export', '--help']; from optimum.commands.optimum_cli import main; main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=work, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("[]\nNone None\n")
    assert "Prune a decoder model per task" in done.stdout
    assert done.returncode == 0
    outcome = tool(work, "env", program=PROGRAM)
    assert outcome.code == 0
    assert "`optimum` version" in outcome.out
