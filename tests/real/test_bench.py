"""What docs/bench.md shows, run as shown."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.full
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bench.md").read_text("utf-8")


def test_the_command_of_the_page(demo: Path) -> None:
    (command,) = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    command = command.replace("demo-output", str(demo))
    done = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for text in ("dense", "arithmetic-0.2", "torch", "onnxruntime", "tokens/s"):
        assert text in done.stdout
