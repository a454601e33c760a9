"""llama.cpp's own quantiser: the program `llama-quantize`, which the package `xllamacpp` does not have."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from seap_export.errors import EnvironmentFailure

__all__ = ["PROGRAM", "quantize"]

PROGRAM = "llama-quantize"


def quantize(source: Path, target: Path, precision: str, threads: int) -> None:
    """Writes `target`, with the types that llama.cpp chooses for each tensor.

    Args:
        source: A GGUF file in f32.
        target: The file to make.
        precision: A preset, such as "q4_0".
        threads: Threads of the program.

    Raises:
        EnvironmentFailure: The program is not on PATH, or does not quantise the file.
    """
    path = shutil.which(PROGRAM)
    if path is None:
        raise EnvironmentFailure(f"{PROGRAM} is not on PATH; build llama.cpp, or leave its row out")
    words = [path, str(source), str(target), precision.upper(), str(threads)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentFailure(f"{PROGRAM} does not quantise {source}: {' '.join(done.stderr.split())[-300:]}")
