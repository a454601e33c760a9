"""The README's program and commands for a model of the user's, on a micro model; `tests/real/` runs the others."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.exports import FEW_STEPS
from support.models import write_micro_model
from support.tokenizers import write_byte_level

from seap_export.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
SHOWN = "".join(re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)).splitlines()
#: For a model of the hub, as printed.
OF_HUB = [command for command in SHOWN if command.startswith("seap-export ")]
COMMANDS = re.findall(r"^ {4}(seap-export .+)$", README, flags=re.MULTILINE)
#: What meets a target, and what writes and converts several formats.
FITTING = [command for command in COMMANDS if "--target-size" in command]
WRITING = [command for command in COMMANDS if "--format" in command]
TARGETS = re.findall(r"`(--(?:target|max)-[\w-]+ [\d.]+)`", README)
VALIDATING = re.findall(r"`(validate --runtime [\w.]+)`", README)


def run(command: str, *more: str) -> str:
    program, *words = shlex.split(command)
    assert program == "seap-export"
    result = CliRunner().invoke(main, [*words, *more], default_map=dict.fromkeys(("export", "validate"), FEW_STEPS))
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_every_command_is_run() -> None:
    assert len(COMMANDS) == len(FITTING) + len(WRITING)
    assert (len(FITTING), len(WRITING), len(TARGETS), len(VALIDATING)) == (1, 2, 2, 1)


@pytest.mark.release
def test_the_commands_for_a_model_of_the_hub(tmp_path: Path) -> None:
    """In an empty folder; the hub's cache has a micro model under the name of the real one."""
    cached = tmp_path / "hub" / f"models--{OF_HUB[0].split()[2].replace('/', '--')}"
    work, snapshot = tmp_path / "empty", cached / "snapshots" / ("0" * 40)
    for folder in (work, snapshot, cached / "refs"):
        folder.mkdir(parents=True)
    (cached / "refs" / "main").write_text(snapshot.name, "utf-8")
    write_micro_model(snapshot, model_type="llama", vocab_size=130, max_position_embeddings=1024)
    write_byte_level(snapshot)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    for command in OF_HUB:
        done = subprocess.run(
            shlex.split(command), cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
    assert {path.name for path in work.iterdir()} == {"pruned", "report.html"}
    assert len(OF_HUB) == 3


@pytest.mark.release
def test_the_program(example_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [program] = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    exec(compile(program, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.release
@pytest.mark.parametrize("command", FITTING)
def test_a_budget(command: str, example_folder: Path) -> None:
    assert "chosen" in run(command)
    assert (example_folder / "fitted" / "frontier.json").is_file()


@pytest.mark.parametrize("targets", [" ".join(TARGETS)])
@pytest.mark.parametrize("command", FITTING)
def test_other_targets_work_in_the_same_way(command: str, targets: str, example_folder: Path) -> None:
    assert run(re.sub(r"--target-size \S+", targets, command), "--dry-run")


@pytest.mark.release
@pytest.mark.needs("llama.cpp", "openvino")
def test_several_formats(example_folder: Path) -> None:
    """One command goes on with what another has made."""
    for command in WRITING:
        assert run(command)
    assert {path.name for path in (example_folder / "pruned" / "maths-0.5").iterdir() if path.is_dir()} == {
        "hf", "gguf", "openvino", "web",
    }  # fmt: skip
    for command in VALIDATING:
        assert "passed" in run(f"seap-export {command}", "pruned")
