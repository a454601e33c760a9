"""Every command and program that the README shows, run as shown."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BY_OTHERS = {
    "make demo": "the fixture `demo` runs it",
    "make test": "it runs this test; .ci/run calls it",
}


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in _blocks("sh") for line in block.splitlines() if line not in BY_OTHERS]


def test_readme_shows_the_two_commands_and_ci_runs_the_second() -> None:
    assert set(BY_OTHERS) <= {line for block in _blocks("sh") for line in block.splitlines()}
    assert re.search(r"^make test\b", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)


def test_readme_has_commands_and_programs() -> None:
    assert len(COMMANDS) >= 4
    assert len(_blocks("python")) == 2


@pytest.mark.release
@pytest.mark.parametrize("command", COMMANDS)
def test_readme_command(command: str, demo: Path) -> None:
    words = shlex.split(command.replace("demo-output", str(demo)))
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.release
@pytest.mark.parametrize(
    ("program", "environment"),
    list(zip(_blocks("python"), (".venv", ".venv-genai"), strict=True)),
    ids=["hf", "genai"],
)
def test_readme_program(program: str, environment: str, demo: Path) -> None:
    python = ROOT / environment / "bin" / "python"
    program = program.replace("demo-output", str(demo))
    done = subprocess.run([python, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Is water wet?" in done.stdout
