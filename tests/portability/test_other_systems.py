"""What Windows and macOS lack is not needed, and an artifact is the same bytes without it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.corpora import write_task_corpora
from support.exports import tree
from support.models import write_micro_model
from support.processes import Tool

ROOT = Path(__file__).parents[2]
#: Characters that no file name may hold on Windows.
FORBIDDEN = re.compile(r'[<>:"|?*\\]|[. ]$')
IMPORT_ALL = """
import importlib, pkgutil
count = 0
for top in ("seap_export", "converters", "validation"):
    for module in pkgutil.walk_packages(importlib.import_module(top).__path__, top + "."):
        try:
            importlib.import_module(module.name)
            count += 1
        except ModuleNotFoundError as error:
            extras = ("optimum", "matplotlib", "lm_eval", "datasets", "accelerate", "mlx", "vllm")
            if error.name.partition(".")[0] not in extras:
                raise
print(count)
"""

#: Runs commands of the command line in turn; prints what each printed, and the peak of memory.
COMMANDS = """
import contextlib, io, json, sys
from seap_export.cli import main
from seap_export.common.memory import peak_memory
said = []
for arguments in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main(arguments)
        except SystemExit as status:
            assert not status.code, arguments
    said.append(out.getvalue())
print(json.dumps([peak_memory(), *said]))
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs Python with what Windows has."""
    folder = tmp_path_factory.mktemp("other")
    shutil.copyfile(Path(__file__).with_name("other_system.py"), folder / "sitecustomize.py")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(folder), str(ROOT)])
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path}
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)

    return run


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_task_corpora(folder)
    write_micro_model(folder / "m", model_type="llama")
    return folder


def _export(inputs: Path, out: Path, tasks: str) -> list[str]:
    given = [word for task in tasks for word in ("--task", f"{task}={inputs / task}.jsonl")]
    settings = ("prompts=1", "decode_steps=2", "held_out=4", "long_tokens=32")
    small = ["--ratio", "0.3", "--threads", "1", "--no-quality", "--no-speed"]
    small += [word for setting in settings for word in ("--set", setting)]
    return ["export", str(inputs / "m"), *given, *small, "--out", str(out)]


def test_every_module_can_be_imported(run: Run) -> None:
    done = run("-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200


def test_the_stand_in_for_windows_refuses_what_windows_refuses(run: Run, tmp_path: Path) -> None:
    """Or the other tests would pass whatever the package does."""
    code = """
import mmap, os, pathlib, sys
held, moved = pathlib.Path(sys.argv[1], "held"), pathlib.Path(sys.argv[1], "moved")
held.write_text("a\\n")
def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError:
        return True
with held.open("rb") as file:
    image = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
assert all((refused(held.replace, moved), refused(held.unlink), refused(held.parent.rename, moved)))
image.close()
assert held.replace(moved).read_bytes() == b"a\\r\\n"
assert refused(open, "/proc/self/status") and not hasattr(os, "wait4")
try:
    import fcntl
except ImportError:
    print("refused")
"""
    done = run("-c", code, str(tmp_path))
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.release
def test_an_export_is_the_same_bytes_and_can_be_replaced(run: Run, tool: Tool, inputs: Path, tmp_path: Path) -> None:
    """--force moves what is there away, which Windows refuses while it is mapped."""
    windows, linux = tmp_path / "windows", tmp_path / "linux"
    other_seed = ["--force", "--set", "seed=1"]
    commands = [
        ["--help"],
        ["doctor", "--json"],
        _export(inputs, windows, "a"),
        [*_export(inputs, windows, "ab"), *other_seed],
        ["validate", str(windows), "--json"],
    ]
    done = run("-c", COMMANDS, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    peak, usage, diagnosis, *_, verdict = json.loads(done.stdout)
    assert (peak, "export" in usage) == (None, True)  # the peak of memory is not known there
    assert json.loads(diagnosis)
    assert json.loads(verdict)["verdict"] == "passed"
    whole = tool(tmp_path, json.dumps([[*_export(inputs, linux, "ab"), *other_seed]]), program=COMMANDS)
    assert whole.code == 0, whole.err
    assert json.loads(whole.out)[0] > 1e6
    _compare(windows, linux)


def _compare(windows: Path, linux: Path) -> None:
    differing = ("performance.json", "validation.json", "validation.html")  # they name the processor, as /proc does
    made = tree(windows, differing)
    assert "router/router.onnx" in made
    assert made == tree(linux, differing)
    reports = [json.loads((out / "validation.json").read_bytes()) for out in (windows, linux)]
    assert len({report["machine"].pop("processor") for report in reports}) == 2
    assert reports[0] == reports[1]
    for suffix in ("json", "html"):
        assert b"\r" not in (windows / f"validation.{suffix}").read_bytes()
    parts = {part for name in made for part in name.split("/")}
    assert not [part for part in parts if FORBIDDEN.search(part)]
    assert not [part for part in parts if part.startswith(".seap-export-tmp")]
