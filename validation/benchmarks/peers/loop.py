"""Times ONNX Runtime GenAI's own generation loop; runs where seap_export is not installed.

    python genai_loop.py FOLDER REQUEST.json

prints what `runner_loop` prints. Threads are those of the folder's genai_config.json.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import onnxruntime_genai as og

__all__: list[str] = []


def _generate(model: Any, prompt: list[int], new_tokens: int) -> tuple[list[int], list[float]]:
    """The new tokens, and the seconds until each of them since the one before, or since the start."""
    tokens, seconds = [], []
    begin = time.perf_counter()
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(do_sample=False, max_length=len(prompt) + new_tokens)
    generator = og.Generator(model, parameters)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
        end = time.perf_counter()
        seconds.append(end - begin)
        begin = end
    return tokens, seconds


def _main(folder: Path, request: Path) -> None:
    asked = json.loads(request.read_text("utf-8"))
    model = og.Model(str(folder))
    prefills: list[float] = []
    steps: list[float] = []
    tokens: list[int] = []
    for run in range(asked["warm_up"] + asked["runs"]):
        tokens, seconds = _generate(model, asked["prompt"], asked["new_tokens"])
        if run >= asked["warm_up"]:
            prefills.append(seconds[0])
            steps.extend(seconds[1:])
    print(json.dumps({"prefills": prefills, "steps": steps, "tokens": tokens}))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
