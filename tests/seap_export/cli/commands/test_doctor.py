"""`seap-export doctor`: exit codes, what is printed, and that it works without torch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.exports import Outcome, Run
from support.processes import Tool
from support.stand_ins.cuda import without_gpu
from support.stand_ins.doctor import ONE_GPU, diagnosis

from seap_export.runtime.doctor import Diagnosis

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs" / "reference.md").read_text("utf-8")
#: Python runs this at the start of every process, of those that the command starts, too.
BLOCK = """
import sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""
FAILS = "cuda does not work here: it fails; install a newer NVIDIA driver"
HEAVY = {"torch", "transformers", "sklearn", "safetensors", "onnx", "onnx_ir", "scipy", "optimum", "gguf"}


@pytest.fixture
def diagnosed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Diagnosis], None]:
    """`diagnosed(diagnosis)`: that is what the command finds."""

    def find(machine: Diagnosis) -> None:
        monkeypatch.setattr("seap_export.runtime.doctor.diagnose", lambda on_progress: machine)

    return find


def process(folder: Path, blocked: set[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where some packages cannot be imported."""
    (folder / "sitecustomize.py").write_text(BLOCK.format(names=blocked), "utf-8")
    return subprocess.run(
        [sys.executable, "-c", "from seap_export.cli import main; main()", "doctor", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )


@without_gpu
def test_this_machine_without_torch(tmp_path: Path) -> None:
    done = process(tmp_path, HEAVY, "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    values = json.loads(done.stdout)
    assert values["schema"] == "seap-export/doctor/1"
    assert values["providers"]["cpu"]["works"] is True
    assert (values["providers"]["cuda"]["works"], values["driver"]["gpus"]) == (False, [])


def test_a_machine_without_a_gpu_and_one_with_it(run: Run, diagnosed: Callable[[Diagnosis], None]) -> None:
    machine = diagnosis(cuda=FAILS, missing=["torch<3"])
    diagnosed(machine)
    outcome = run("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    for line in (
        "not installed  torch<3",
        "NVIDIA GPU     none: there is no NVIDIA driver (libcuda.so.1: cannot open shared object file)",
        "cpu       works                    2.0e-04",
        "cuda      fails                          -",
        FAILS,
    ):
        assert line in outcome.out.splitlines()
    outcome = run("doctor", "--require", "cpu", "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")

    diagnosed(diagnosis(ONE_GPU))
    outcome = run("doctor", "--require", "tensorrt")
    assert (outcome.code, outcome.err, "Everything works." in outcome.out) == (0, "", True)


def test_a_provider_that_is_required_and_fails(run: Run, diagnosed: Callable[[Diagnosis], None]) -> None:
    diagnosed(diagnosis(ONE_GPU, FAILS))
    run("doctor", "--require", "cuda").refused(6, FAILS)
    run("doctor", "--require", "cuda", "--json").refused_in_json(6, FAILS)


def test_a_runtime_that_cannot_be_imported(tmp_path: Path) -> None:
    done = process(tmp_path, {"onnxruntime"})
    message = Outcome(done.returncode, done.stdout, done.stderr).refused(6, "onnxruntime")
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in message


def test_the_page_shows_a_program_that_runs(tool: Tool, tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    outcome = tool(tmp_path, program=program)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("True ")
