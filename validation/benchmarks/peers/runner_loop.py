"""Times this package's own generation loop.

    python -m validation.benchmarks.peers.runner_loop FOLDER REQUEST.json

prints, as JSON, the seconds to the first token of each counted run, those of each later token, and the tokens.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from seap_export.runtime import GREEDY, Generator

__all__: list[str] = []


def _generate(generator: Generator, prompt: list[int], new_tokens: int) -> tuple[list[int], list[float]]:
    """The new tokens, and the seconds until each of them since the one before, or since the start."""
    tokens, seconds = [], []
    begin = time.perf_counter()
    for step in generator.steps([prompt], new_tokens, GREEDY):
        tokens.append(step[0])
        end = time.perf_counter()
        seconds.append(end - begin)
        begin = end
    return tokens, seconds


def _main(folder: Path, request: Path) -> None:
    asked = json.loads(request.read_text("utf-8"))
    generator = Generator(folder, threads=asked["threads"])
    prefills: list[float] = []
    steps: list[float] = []
    tokens: list[int] = []
    for run in range(asked["warm_up"] + asked["runs"]):
        tokens, seconds = _generate(generator, asked["prompt"], asked["new_tokens"])
        if run >= asked["warm_up"]:
            prefills.append(seconds[0])
            steps.extend(seconds[1:])
    print(json.dumps({"prefills": prefills, "steps": steps, "tokens": tokens}))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
