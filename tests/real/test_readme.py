"""Every command and program in a block of the README, the guide and the page of the runtimes, run as shown.

`tests/test_readme.py` runs the README's other commands, `test_optimum.py` the commands of the page of the runtimes.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from support.product import dense_folder, open_source

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text("utf-8")
RUNTIMES = (ROOT / "docs" / "runtimes.md").read_text("utf-8")
BY_OTHERS = {
    "make demo": "the fixture `demo` runs it",
    "make test": ".ci/run calls it, and it runs tests of this file",
    "pip install .": "tests/test_packaging.py installs the wheel",
}


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


SHOWN = [line for page in (README, GUIDE) for block in _blocks(page, "sh") for line in block.splitlines()]
COMMANDS = [line for line in SHOWN if line not in BY_OTHERS]
#: The programs that load a variant in transformers and in ONNX Runtime GenAI.
PROGRAMS = [program for program in _blocks(RUNTIMES, "python") if "demo-output" in program]
#: Commands for a folder of the user's, where the package is installed.
ELSEWHERE = [command for command in COMMANDS if command.startswith("seap-export ")]
HERE = [command for command in COMMANDS if command not in ELSEWHERE]


def test_readme_shows_the_two_commands_and_ci_runs_the_second() -> None:
    assert set(BY_OTHERS) <= set(SHOWN)
    assert re.search(r"^make test\b", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)


def test_readme_has_commands_and_programs() -> None:
    assert (len(ELSEWHERE), len(HERE)) == (3, 7)
    assert len(PROGRAMS) == 2


@pytest.mark.release
@pytest.mark.parametrize("command", HERE)
def test_readme_command(command: str, demo: Path) -> None:
    words = shlex.split(command.replace("demo-output", str(demo)))
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.release
def test_the_commands_for_a_model_of_the_hub(tmp_path: Path, smollm2_gguf: Path) -> None:
    """In an empty folder; the hub's cache has the model already."""
    with dense_folder(open_source(str(smollm2_gguf))) as folder:
        _put_into_hub_cache(folder, tmp_path / "hub", "HuggingFaceTB/SmolLM2-135M-Instruct")
    path = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    for command in ELSEWHERE:
        words = shlex.split(command)
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
    assert {path.name for path in tmp_path.iterdir()} == {"hub", "pruned", "report.html"}


def _put_into_hub_cache(folder: Path, cache: Path, model: str) -> None:
    """Lays a model folder into a hub cache as the hub's client does."""
    place = cache / f"models--{model.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40, "utf-8")
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))


@pytest.mark.release
@pytest.mark.parametrize(
    ("program", "environment"),
    list(zip(PROGRAMS, (".venv", ".venv-genai"), strict=True)),
    ids=["hf", "genai"],
)
def test_readme_program(program: str, environment: str, demo: Path) -> None:
    python = ROOT / environment / "bin" / "python"
    program = program.replace("demo-output", str(demo))
    done = subprocess.run([python, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Is water wet?" in done.stdout
