"""What docs/runner.md shows, run as shown, and the runner on the real model."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from seap_export.runtime import Generator, Sampling

pytestmark = pytest.mark.release
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "runner.md").read_text("utf-8")
PROMPTS = [
    "Question: Is water wet?\nAnswer:",
    "The sun is",
    "Grüße aus Köln, 你好, 🙂🚀 and three   spaces:",
]


def _block(language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    return str(block)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_command_of_the_page(demo: Path) -> None:
    assert _run(shlex.split(_block("sh").replace("demo-output", str(demo)))).endswith("\n")


def test_the_program_of_the_page(demo: Path) -> None:
    program = _block("python").replace("demo-output", str(demo))
    assert _run([str(ROOT / ".venv" / "bin" / "python"), "-c", program]).count("\n") >= 2


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.9, 50, 0.95)])
def test_batches_and_streams_give_what_prompts_give_alone(demo: Path, sampling: Sampling) -> None:
    generator = Generator(demo / "reading-0.2" / "onnx")
    alone = [generator.generate(prompt, 12, sampling) for prompt in PROMPTS]
    assert ["".join(generator.stream(prompt, 12, sampling)) for prompt in PROMPTS] == alone
    if sampling.is_greedy:
        assert generator.generate_batch(PROMPTS, 12) == alone
