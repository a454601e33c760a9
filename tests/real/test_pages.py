"""Every command and program that a page shows for `demo-output`, run once as shown; `tests/` runs the others."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [path.read_text("utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
#: Run by the fixture `demo`, by .ci/run, by tests/test_packaging.py and by tests/test_examples.py.
BY_OTHERS = re.compile(r"make (demo|test)|pip install \.|seap-export .*")


def _blocks(language: str) -> list[str]:
    shown = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [block for page in PAGES for block in shown.findall(page)]


COMMANDS = [line for block in _blocks("sh") for line in block.splitlines() if not BY_OTHERS.fullmatch(line)]
PROGRAMS = [program for program in _blocks("python") if "demo-output" in program]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    return done.stdout


def test_the_pages_have_commands_and_programs() -> None:
    assert (len(COMMANDS), len(PROGRAMS)) == (13, 3)


@pytest.mark.parametrize(
    "command",
    [
        # another command of the page validates the same variant, and tests/seap_export/cli has the reports
        pytest.param(line, marks=pytest.mark.full if re.search(" bench |--junit", line) else pytest.mark.release)
        for line in COMMANDS
    ],
)
def test_command(command: str, demo: Path) -> None:
    """None makes anew what the demo has made, and the one of optimum would make a part of it."""
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*.safetensors")}
    said = _run(shlex.split(command.replace("demo-output", str(demo))))
    assert " route " not in command or '"item": "lamp"' in said  # as the page says
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*.safetensors")} == before


@pytest.mark.release
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: re.findall(r"import (\w+)", program)[-1])
def test_program(program: str, demo: Path) -> None:
    environment = ".venv-genai" if "onnxruntime_genai" in program else ".venv"
    _run([str(ROOT / environment / "bin" / "python"), "-c", program.replace("demo-output", str(demo))])
