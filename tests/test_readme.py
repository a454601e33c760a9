"""The program of the README and its commands with placeholders, on a micro model; `tests/real/` runs the others."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.exports import FEW_STEPS

from seap_export.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"^ {4}(seap-export .+)$", README, flags=re.MULTILINE)
#: What meets a target, and what writes and converts several formats.
FITTING = [command for command in COMMANDS if "--target-size" in command]
WRITING = [command for command in COMMANDS if "--format" in command]
TARGETS = re.findall(r"`(--(?:target|max)-[\w-]+ [\d.]+)`", README)
VALIDATING = re.findall(r"`(validate --runtime [\w.]+)`", README)


def run(command: str, *more: str) -> str:
    """What `seap-export ...` prints."""
    program, *words = shlex.split(command)
    assert program == "seap-export"
    result = CliRunner().invoke(main, [*words, *more], default_map=dict.fromkeys(("export", "validate"), FEW_STEPS))
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_every_command_is_run() -> None:
    assert len(COMMANDS) == len(FITTING) + len(WRITING)
    assert (len(FITTING), len(WRITING), len(TARGETS), len(VALIDATING)) == (1, 2, 2, 1)


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


@pytest.mark.parametrize("targets", [*TARGETS, " ".join(TARGETS)])
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
