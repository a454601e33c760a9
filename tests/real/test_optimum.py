"""Every command and program that docs/optimum.md shows, run as shown."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.release
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "optimum.md").read_text("utf-8")
#: From the page's program to the same one with the torch model.
IN_TORCH = {
    "from seap_export.optimum_onnx import SeapORTModelForCausalLM": "import seap_export, transformers",
    "SeapORTModelForCausalLM.from_pretrained(folder)": (
        'transformers.AutoModelForCausalLM.from_pretrained(f"{folder}/hf")'
    ),
}


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("command", [line for block in _blocks("sh") for line in block.splitlines()])
def test_command(command: str, demo: Path) -> None:
    words = shlex.split(command.replace("demo-output", str(demo)))
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_program(demo: Path) -> None:
    """It prints what it does with the torch model in the place of ours."""
    (program,) = (block.replace("demo-output", str(demo)) for block in _blocks("python"))
    in_torch = program
    for ours, theirs in IN_TORCH.items():
        assert ours in in_torch
        in_torch = in_torch.replace(ours, theirs)
    python = ROOT / ".venv-transformers4" / "bin" / "python"
    printed = []
    for code in (program, in_torch):
        done = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert "Is water wet?" in printed[0]
    assert printed[0] == printed[1]
